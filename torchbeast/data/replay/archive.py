"""A folder of arrays: written whole or not at all, and verified before anything is taken from it.

<folder>/0.npy 1.npy ...   the arrays, in NumPy's format
<folder>/state.json        counters, and which array lies in which file
<folder>/MANIFEST.json     sizes and SHA-256 of them, written last
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from torchbeast.data.replay.memory import Array

FORMAT_VERSION = 1
MANIFEST, STATE = "MANIFEST.json", "state.json"
CHUNK = 1 << 24  # bytes read at once


class ReplayMismatch(ValueError):
    """A saved replay that is damaged, or of other environments or settings."""


def write_folder(folder: Path, arrays: dict[str, list[Array]], state: dict[str, Any]) -> None:
    """Writes arrays, each given as pieces along its first axis, and a state that fits into JSON.

    Raises:
        OSError: the disk does not take it; what was in ``folder`` before is untouched.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        names = {name: f"{i}.npy" for i, name in enumerate(arrays)}
        files = {names[name]: _write_array(temporary / names[name], arrays[name]) for name in names}
        text = json.dumps({"arrays": names, "state": state}).encode()
        files[STATE] = _write(temporary / STATE, iter([text]))
        manifest = json.dumps({"format_version": FORMAT_VERSION, "files": files}, indent=1)
        _write(temporary / MANIFEST, iter([manifest.encode()]))
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_folder(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Returns arrays, as they lie on the disk, and state, once every byte is verified.

    Raises:
        ReplayMismatch: a file is missing or damaged, or the format is newer.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        version = manifest["format_version"]
        if version != FORMAT_VERSION:
            raise ReplayMismatch(
                f"expected a saved replay of format {FORMAT_VERSION}, got {version}; use the "
                f"TorchBeast that wrote it"
            )
        for name, expected in manifest["files"].items():
            _verify(folder / name, expected)
        content = json.loads((folder / STATE).read_bytes())
        names = content["arrays"].items()
        return {name: _map(folder / file) for name, file in names}, content["state"]
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ReplayMismatch(f"expected a whole saved replay in {folder}, got: {error}") from error


def _map(path: Path) -> Array:
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _verify(path: Path, expected: dict[str, Any]) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        size = file.tell()
    if {"size": size, "sha256": digest.hexdigest()} != expected:
        raise ReplayMismatch(
            f"expected {path} as it was written, got other bytes: it is damaged; remove the "
            f"folder to begin with an empty replay"
        )


def _write_array(path: Path, pieces: list[Array]) -> dict[str, Any]:
    shape = (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])
    header = {"descr": pieces[0].dtype.str, "fortran_order": False, "shape": shape}

    def content() -> Iterator[Any]:
        start = io.BytesIO()
        np.lib.format.write_array_header_1_0(start, header)
        yield start.getvalue()
        for piece in pieces:
            if piece.size:
                yield np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data

    return _write(path, content())


def _write(path: Path, pieces: Iterator[Any]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}

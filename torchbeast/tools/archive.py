"""The files of one checkpoint: as bytes with a manifest, and back once every byte is checked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import torchbeast
from torchbeast.tools.state import plain

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
_REQUIRED = ("model.safetensors", "optim.pt", "state.json", "rng.pt")
_OPTIONAL = ("env.pt",)
_LARGEST_MANIFEST = 1 << 20  # bytes


class CheckpointError(RuntimeError):
    """A checkpoint that is not whole, not ours, or not safe to load."""


class NewerFormat(CheckpointError):
    """A checkpoint of a newer TorchBeast."""


def pack(fields: dict[str, Any], flags: dict[str, Any]) -> dict[str, bytes | memoryview]:
    """Returns the files of a checkpoint by name, the manifest last."""
    model = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in fields["model"].items()}
    state = plain(fields["state"], arrays_to_lists=True, where="state")
    files: dict[str, bytes | memoryview] = {
        "model.safetensors": safetensors.torch.save(model),
        "optim.pt": torch_bytes(plain(fields["optim"], where="optim")),
        "state.json": json.dumps(state).encode(),
        "rng.pt": torch_bytes(plain(fields["rng"], where="rng")),
    }
    if fields["env"] is not None:
        files["env.pt"] = torch_bytes(plain(fields["env"], where="env"))
    manifest = {
        "format_version": FORMAT_VERSION,
        "torchbeast_version": torchbeast.__version__,
        "step": fields["step"],
        "config_hash": config_hash(flags),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),  # for people: nothing is ordered by it
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        },
    }
    manifest["manifest_sha256"] = _own_hash(manifest)
    files[MANIFEST] = _manifest_bytes(manifest)
    return files


def unpack(path: Path, step: int) -> dict[str, Any]:
    """Returns the fields of the checkpoint in ``path``, which must be of ``step``.

    Raises:
        CheckpointError: a file is missing, damaged, foreign or unsafe.
    """
    refuse_unsafe_environment()
    files = verified_files(path, step)
    try:
        return {
            "step": step,
            "model": safetensors.torch.load(files["model.safetensors"]),
            "optim": from_torch_bytes(files["optim.pt"]),
            "state": json.loads(files["state.json"]),
            "rng": from_torch_bytes(files["rng.pt"]),
            "env": from_torch_bytes(files["env.pt"]) if "env.pt" in files else None,
        }
    except Exception as error:
        raise CheckpointError(
            f"{path} is as it was written, but holds more than data, or nothing that this version "
            f"can read: {reason_of(error)}; use one from a source you trust"
        ) from error


def verified_files(path: Path, step: int) -> dict[str, bytes]:
    """Returns the files of the checkpoint, each with the size and SHA-256 of the manifest.

    The bytes that were checked are the bytes that are returned: the files are read once.

    Raises:
        CheckpointError: one is not.
    """
    manifest = read_manifest(path)
    if manifest["step"] != step:
        raise CheckpointError(f"{path} was written for step {manifest['step']}; was it renamed?")
    files = {}
    for name, entry in manifest["files"].items():
        file = path / name
        try:
            size = os.stat(file).st_size
            if size != entry["size"]:
                raise CheckpointError(
                    f"{file} is damaged: expected {entry['size']} bytes, got {size}"
                )
            files[name] = file.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
        if hashlib.sha256(files[name]).hexdigest() != entry["sha256"]:
            raise CheckpointError(f"{file} is damaged: its SHA-256 is not that of the manifest")
    return files


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the manifest of the checkpoint in ``path``.

    Raises:
        NewerFormat: a newer TorchBeast wrote it.
        CheckpointError: it is missing or damaged.
    """
    file = path / MANIFEST
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST_MANIFEST)
        manifest = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {reason_of(error)}") from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("manifest_sha256") != _own_hash(manifest)
        or data != _manifest_bytes(manifest)
    ):
        raise CheckpointError(f"{file} is damaged: its SHA-256 is not the one it names")
    if manifest["format_version"] > FORMAT_VERSION:
        raise NewerFormat(
            f"expected a checkpoint of format {FORMAT_VERSION} or before, got format "
            f"{manifest['format_version']} of TorchBeast {manifest['torchbeast_version']} in "
            f"{path}; install that version"
        )
    names = set(manifest["files"])
    if not names.issuperset(_REQUIRED) or not names.issubset(_REQUIRED + _OPTIONAL):
        raise CheckpointError(f"{file}: expected the files {_REQUIRED}, got {sorted(names)}")
    return manifest


def config_hash(flags: dict[str, Any]) -> str:
    """Returns the SHA-256 of the flags, whatever their order."""
    text = json.dumps(plain(flags, arrays_to_lists=True, where="flags"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def torch_bytes(tree: Any) -> memoryview:
    """Returns ``tree``, which must be plain, as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getbuffer()  # not a copy: checkpoints should not raise the peak of memory


def from_torch_bytes(data: bytes) -> Any:
    """Returns what ``torch_bytes`` wrote; anything that is not data is refused."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def refuse_unsafe_environment() -> None:
    """Raises CheckpointError where the environment lets files run code when they are loaded."""
    name = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    if os.environ.get(name):
        raise CheckpointError(
            f"expected {name} not to be set, got '{os.environ[name]}': it lets every checkpoint "
            f"run code; unset {name}"
        )


def _manifest_bytes(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1) + "\n").encode()


def _own_hash(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def reason_of(error: BaseException) -> str:
    """Returns the line that says why; torch's own text advises to load unsafely."""
    found = re.search(r"WeightsUnpickler error: (.+)", str(error))
    if found:
        return found.group(1).strip()
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

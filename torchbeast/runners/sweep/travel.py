"""The directory of a run as bytes, for machines that share no file system."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

LARGEST = 1 << 30  # bytes of a run that travels whole
_STAYS = ("run.lock", "model.tar")  # the latter is the newest checkpoint in another format


def packed(run: Path, largest: int = LARGEST) -> tuple[bytes, bool]:
    """Returns the files of a run as a tar, and whether that is all of logs, settings, checkpoints.

    Of a run of more than ``largest`` bytes the replay is left out, without which a checkpoint
    goes on with an empty one; where that is not enough, the checkpoints too.
    """
    files = found = dict(_sizes(run))
    for heavy in ("replay-", "checkpoints"):
        if sum(files.values()) > largest:
            files = {path: n for path, n in files.items() if not path.parts[0].startswith(heavy)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in files:
            try:
                data = (run / path).read_bytes()  # at once: the run goes on writing
            except OSError:
                continue  # of a checkpoint that a newer one replaced
            entry = tarfile.TarInfo(str(path))
            entry.size, entry.mtime = len(data), int(time.time())
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue(), len(files) == len(found)


def unpack(data: bytes, run: Path) -> None:
    """Puts the files that ``packed`` returned in place of the directory ``run``.

    Where they came without checkpoints, those of ``run`` stay, and its replay. Nothing outside of
    ``run`` is written, and nothing in it runs.

    Raises:
        OSError: the disk does not take it; ``run`` is as it was.
        tarfile.TarError: ``data`` is no such tar.
    """
    incoming, old = run.with_name(f".{run.name}.new"), run.with_name(f".{run.name}.old")
    for leftover in (incoming, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        incoming.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(incoming, filter="data")
        if run.exists():
            run.rename(old)
        incoming.rename(run)
        if not (run / "checkpoints").exists():
            for path in (*old.glob("checkpoints"), *old.glob("replay-*")):
                path.rename(run / path.name)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def newest_checkpoint(run: Path) -> str:
    """Returns the name of the newest checkpoint of a run, "" if it has none."""
    return max((path.name for path in run.glob("checkpoints/ckpt-*")), default="")


def _sizes(run: Path) -> Iterator[tuple[Path, int]]:
    """Yields the files of a run that travel, relative to it, with their sizes."""
    for folder, _, names in os.walk(run):  # unlike `rglob` it bears that folders vanish meanwhile
        for path in (Path(folder, name) for name in sorted(names)):
            with contextlib.suppress(OSError):
                inside = path.relative_to(run)
                if _goes(inside):
                    yield inside, path.stat().st_size


def _goes(path: Path) -> bool:
    return path.name not in _STAYS and not any(part.startswith(".") for part in path.parts)

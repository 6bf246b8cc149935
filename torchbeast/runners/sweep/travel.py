"""The directory of a run as bytes, for machines that share no file system."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

LARGEST = 1 << 30  # bytes of a run with checkpoints; without them where it is more
_STAYS = ("run.lock", "model.tar")  # the latter is the newest checkpoint in another format


def packed(run: Path, largest: int = LARGEST) -> bytes:
    """Returns the files of a run as a tar: logs, settings and checkpoints.

    A run of more than ``largest`` bytes comes without its checkpoints.
    """
    files = [path for path in sorted(run.rglob("*")) if _goes(path.relative_to(run))]
    size = sum(path.stat().st_size for path in files if path.is_file())
    if size > largest:
        files = [path for path in files if path.relative_to(run).parts[0] != "checkpoints"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in files:
            try:
                data = path.read_bytes()  # at once: the run goes on writing
            except OSError:
                continue  # a directory, or a checkpoint that a newer one replaced
            entry = tarfile.TarInfo(str(path.relative_to(run)))
            entry.size, entry.mtime = len(data), int(os.path.getmtime(run))
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def unpack(data: bytes, run: Path) -> None:
    """Puts the files that ``packed`` returned in place of the directory ``run``.

    Nothing outside of it is written, and nothing in it runs.

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
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def newest_checkpoint(run: Path) -> str:
    """Returns the name of the newest checkpoint of a run, "" if it has none."""
    return max((path.name for path in run.glob("checkpoints/ckpt-*")), default="")


def _goes(path: Path) -> bool:
    return path.name not in _STAYS and not any(part.startswith(".") for part in path.parts)

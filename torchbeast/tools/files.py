"""Files that are whole or absent, whatever stops the process or fills the disk."""

from __future__ import annotations

import os
from pathlib import Path


class StorageError(RuntimeError):
    """The disk did not take what was written; what was there before is untouched."""


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Writes ``data`` to ``path`` and waits until the disk has it. May leave half on an error."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes all of ``data``: one ``os.write`` may take less, as on a disk that is almost full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Puts ``data`` in place of ``path``: readers see all of the old or all of the new file.

    Raises:
        OSError: the disk is full or not writable; ``path`` is as it was.
    """
    # One writer per run (its lock says so): a fixed name leaves no heap of leftovers after kills.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_durably(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Waits until the disk has the names in the directory ``path``."""
    if os.name == "nt":
        return  # directories cannot be opened there
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Memory that several processes see."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import pathlib
import tempfile
from multiprocessing import reduction
from typing import Any

import psutil

ALIGNMENT = 64  # bytes; a cache line


def aligned(num_bytes: int) -> int:
    """Returns the bytes that an array takes in a block, so that the next one begins aligned."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


class SharedBlock:
    """Bytes shared with the processes it is handed to when they are spawned.

    The block has no name in any file system: nothing is left behind, however the processes end,
    and the small ``/dev/shm`` of a container does not bound it.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._fd: int | None = _anonymous_file()
        try:
            # Where memory is overcommitted the kernel would not refuse: it would kill processes.
            if num_bytes > available_memory():
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            os.ftruncate(self._fd, num_bytes)
            # Reserve the pages now: a full memory is then an error here, not a SIGBUS later.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, num_bytes)
        except OSError as error:
            os.close(self._fd)
            self._fd = None
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise MemoryError(
                    f"expected {num_bytes / 1e6:.0f} MB of shared memory for rollouts or weights, "
                    f"and the machine has {available_memory() / 1e6:.0f} MB left; lower "
                    f"--num_buffers, --unroll_length or --envs_per_actor (in a container, raise "
                    f"its memory)"
                ) from error
            raise
        self.memory = mmap.mmap(self._fd, num_bytes)

    @classmethod
    def of(cls, fd: int, num_bytes: int) -> SharedBlock:
        """Returns the block behind a descriptor that came through a pipe, and takes it over."""
        block = cls.__new__(cls)
        block.num_bytes, block._fd = num_bytes, fd
        block.memory = mmap.mmap(fd, num_bytes)
        return block

    def fileno(self) -> int:
        """Returns the descriptor, which stays the block's."""
        assert self._fd is not None
        return self._fd

    def __getstate__(self) -> dict[str, Any]:
        return {"num_bytes": self.num_bytes, "fd": reduction.DupFd(self.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.num_bytes = state["num_bytes"]
        self._fd = state["fd"].detach()
        self.memory = mmap.mmap(self._fd, self.num_bytes)

    def __del__(self) -> None:
        # The map stays until the last array over it is gone; the descriptor need not.
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)
            self._fd = None


def available_memory() -> int:
    """Returns the bytes that the machine, or the container, can still give."""
    available = int(psutil.virtual_memory().available)
    cgroup = pathlib.Path("/sys/fs/cgroup")
    # Not in a container with a limit: no such files, or the word "max".
    with contextlib.suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        # Pages of files, which the kernel gives back when asked.
        available = min(available, limit - used + int(stat["inactive_file"]))
    return available


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("torchbeast", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # macOS: already without a name
        return os.dup(file.fileno())

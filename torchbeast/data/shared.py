"""Memory that several processes see."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from multiprocessing import reduction
from typing import Any


class SharedBlock:
    """Bytes shared with the processes it is handed to when they are spawned.

    The block has no name in any file system: nothing is left behind, however the processes end,
    and the small ``/dev/shm`` of a container does not bound it.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._fd = _anonymous_file()
        try:
            os.ftruncate(self._fd, num_bytes)
            # Reserve the pages now: a full memory is then an error here, not a SIGBUS later.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, num_bytes)
        except OSError as error:
            os.close(self._fd)
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise MemoryError(
                    f"expected {num_bytes / 1e6:.0f} MB of shared memory for rollouts, and the "
                    f"machine has none left; lower --num_buffers, --unroll_length or "
                    f"--envs_per_actor (in a container, raise its memory or --shm-size)"
                ) from error
            raise
        self.memory = mmap.mmap(self._fd, num_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {"num_bytes": self.num_bytes, "fd": reduction.DupFd(self._fd)}

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


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("torchbeast", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # macOS: already without a name
        return os.dup(file.fileno())

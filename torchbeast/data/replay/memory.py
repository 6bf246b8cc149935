"""Where the arrays of a replay lie: in memory of this process, or in a file on a disk."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from torchbeast.data.shared import available_memory

Array = np.ndarray[Any, Any]


def private_memory(num_bytes: int) -> mmap.mmap:
    """Returns zeros that take room only as they are written.

    Raises:
        MemoryError: the machine has less left; better now than when the kernel kills for it.
    """
    available = available_memory()
    if num_bytes > available:
        raise MemoryError(
            f"expected {num_bytes / 1e9:.2f} GB for the replay, and the machine has "
            f"{available / 1e9:.2f} GB left; lower --replay_size, or keep it on a disk with "
            f"--replay_dir"
        )
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, num_bytes)  # Windows
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # With pages of 2 MB filling is four times as fast, and draws from all over are faster.
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def file_memory(num_bytes: int, folder: str | Path) -> mmap.mmap:
    """Returns zeros in a file in ``folder``, for a replay larger than the memory.

    The file has no name once it is open: nothing is left behind, however the process ends.

    Raises:
        OSError: the disk has less left, or there is no such folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a folder for --replay_dir, got {folder}; make it first")
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            # Reserved now: a full disk is then an error here, not a SIGBUS later.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:
                file.truncate(num_bytes)
        except OSError as error:
            raise OSError(
                error.errno,
                f"expected room for a replay of {num_bytes / 1e9:.2f} GB in {folder}, got: "
                f"{error.strerror}; make room, lower --replay_size or change --replay_dir",
            ) from error
        return mmap.mmap(file.fileno(), num_bytes)

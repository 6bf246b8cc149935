"""The memory of the process."""

from __future__ import annotations

import ctypes
import os

import psutil

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MMAP_THRESHOLDS = (1 << 30, 32 << 20)  # bytes; old versions refuse more than the second


def keep_freed_memory() -> bool:
    """Returns whether freed memory now stays with the process, for the next update to use.

    By default glibc gives every large block back to the kernel, which clears it again page by
    page at the next update: on a CPU that can cost as much as the update. Elsewhere: no-op.
    """
    if not _has_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [
        any(mallopt(_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS),
        mallopt(_TRIM_THRESHOLD, 2**31 - 1),
    ]
    return all(done)


def rss() -> int:
    """Returns the bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def _has_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return False

"""What runs below a process."""

from __future__ import annotations

import contextlib

import psutil


def workers(pid: int | None = None) -> list[psutil.Process]:
    """Returns the processes that run below ``pid`` (this one), but for those that start others."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            starts = "resource_tracker" in " ".join(process.cmdline())
            if not starts and process.name() != "forks workers" and running(process):
                found.append(process)
    return found


def running(process: psutil.Process) -> bool:
    """Returns whether a process runs, and is not only a corpse."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

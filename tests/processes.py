"""What runs on this machine, what it leaves there, and how long to wait for it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection
from typing import Any

import psutil

# Below those that Linux gives to connections, and above those of Ray's workers.
PORTS = range(20_000, 32_000)


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


def busy() -> float:
    """Returns 1, or how many times as long all takes as on a machine that does nothing else."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1.0, os.getloadavg()[0] / (cores or 1))


def in_time(condition: Callable[[], Any], seconds: float = 10.0) -> bool:
    """Returns whether ``condition`` comes true within ``seconds``; a busy machine has more."""
    deadline = time.monotonic() + seconds * busy()
    while not condition():
        if time.monotonic() > deadline:
            return bool(condition())
        time.sleep(0.01)
    return True


def gone(processes: Collection[psutil.Process]) -> bool:
    """Returns whether all end soon; multiprocessing's tracker is the last."""
    return in_time(lambda: not any(map(running, processes)))


def stopped(pid: int) -> bool:
    """Returns whether a process that was sent SIGSTOP soon stands still."""
    return in_time(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def shared_files() -> set[str]:
    """Returns the names in shared memory, of everybody on this machine."""
    return set(os.listdir("/dev/shm"))


def nothing_new_since(files: set[str]) -> bool:
    """Returns whether no name came to shared memory since there were ``files``, and stayed.

    Others use it, too: Ray has a name there for a moment when a node starts.
    """
    return in_time(lambda: shared_files() <= files)


def free_ports(count: int = 1) -> int:
    """Returns the first of ``count`` ports that are free now, and that no connection is given."""
    start = PORTS[16 * os.getpid() % len(PORTS)]  # processes side by side take others
    for first in [*range(start, PORTS.stop - count), *range(PORTS.start, start)]:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")

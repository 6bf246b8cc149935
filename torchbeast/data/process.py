"""Worker processes: spawned, each in a group of its own, gone when their parent is."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Worker:
    """A spawned process and the private pipe to it, seen from the parent.

    Nothing that can be left locked is shared with it: a worker may be killed at any moment. It
    leads a process group, so that ``kill`` also ends what it started itself. It does not heed
    SIGINT and SIGTERM, which terminals and clusters send to everybody: the parent decides. On Linux
    it dies with the thread that made it: make workers in a thread that stays.

    Args:
        target: called as ``target(connection, *args)`` in the worker; must be importable there.
        args: must be picklable; a SharedBlock in them is shared.
        name: for logs and process lists.
    """

    def __init__(
        self, target: Callable[..., None], args: tuple[Any, ...] = (), name: str | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")  # fork breaks threads, CUDA and locks
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_main, args=(os.getpid(), theirs, target, args), name=name
        )
        try:
            self._process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()
        self.name = self._process.name
        # An interpreter that exits waits for its workers; one that was never closed must go.
        self._at_exit = util.Finalize(self, _kill, (self._process,), exitpriority=10)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """What ``multiprocessing.connection.wait`` reports when the worker has ended."""
        return self._process.sentinel

    @property
    def alive(self) -> bool:
        """Whether the worker runs; asks the kernel."""
        return self._process.is_alive()

    def wait(self, seconds: float) -> bool:
        """Returns whether the worker has ended, after waiting ``seconds`` for it at most."""
        self._process.join(max(0.0, seconds))
        return not self.alive

    def kill(self) -> None:
        """Ends the worker and its whole group at once, also what a dead worker left behind."""
        self._at_exit()  # does its work once
        # A process in an uninterruptible wait (a dead disk) must not hold the parent up.
        self._process.join(1.0)
        self.connection.close()

    def exit_text(self) -> str:
        """Returns how the worker ended: ``killed by SIGKILL``, ``exited with code 1``."""
        code = self._process.exitcode
        if code is None:
            return "still running"
        if code >= 0:
            return f"exited with code {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"


class LogTo(logging.Handler):
    """Passes what a worker warns of on to its parent, which shows it where a person looks.

    Args:
        send: called with the level and the text, in any thread.
    """

    def __init__(self, send: Callable[[int, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send
        logging.getLogger("torchbeast").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Passes one on, with its traceback if it has one."""
        self._send(record.levelno, self.format(record))


def close_workers(workers: list[Worker], grace: float = 1.0) -> None:
    """Ends ``workers``: asks by closing their pipes, and kills those that take longer."""
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + grace
    for worker in workers:
        worker.wait(deadline - time.monotonic())
    for worker in workers:
        worker.kill()


def _kill(process: SpawnProcess) -> None:
    assert process.pid is not None
    # Before the worker has made itself a group there is none; after its death it may live on.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _main(parent: int, connection: Any, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN, which programs started from here would inherit.
        signal.signal(number, _pass)
    target(connection, *args)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # taking torch down politely takes half a second, and can hang


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Has Linux send this process the signal ``number`` when the process ``parent`` is gone."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _pass(number: int, frame: FrameType | None) -> None:
    pass

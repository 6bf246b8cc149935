"""Worker processes: each in a group of its own, gone when their parent is.

On Linux they are forked by a server that has imported PyTorch once for all of them, which costs a
spawned process seconds and 100 MB. The server itself is a fresh interpreter: no thread, lock or GPU
of the parent is in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, util
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import numpy as np

SERVER_DIES = 5.0  # seconds that a killed server may take to be gone
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # of Linux's prctl.h
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_ENVIRONMENT = threading.Lock()  # of this process, in which threads may start workers
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Worker:
    """A process and the private pipe to it, seen from the parent.

    Nothing that can be left locked is shared with it: a worker may be killed at any moment. It
    leads a process group, so that ``kill`` also ends what it started itself. It does not heed
    SIGINT and SIGTERM, which terminals and clusters send to everybody: the parent decides. On Linux
    it dies with its parent, however that ends. It has the parent's environment variables, and one
    thread in each numeric library until it asks for more.

    Args:
        target: called as ``target(connection, *args)`` in the worker; must be importable there.
        args: must be picklable; a SharedBlock in them is shared.
        name: for logs and process lists.
    """

    def __init__(
        self, target: Callable[..., None], args: tuple[Any, ...] = (), name: str | None = None
    ) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        try:
            self._process = _started(name, theirs, target, args)
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
        """Whether the worker runs."""
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


def _started(name: str | None, *arguments: Any) -> BaseProcess:
    """Returns a process that calls ``_main``."""
    context: BaseContext = multiprocessing.get_context("spawn")
    if sys.platform == "linux":
        forkserver.set_forkserver_preload(["torchbeast.data.nursery"])
        context = multiprocessing.get_context("forkserver")
    with _ENVIRONMENT:
        everything = (dict(os.environ), *arguments)
        process: BaseProcess = context.Process(target=_main, args=everything, name=name)
        with environment(**_ONE_THREAD):
            _start(process)
    return process


def _start(process: BaseProcess) -> None:
    """Starts a process, by another server if the one that was there is dying."""
    deadline = time.monotonic() + SERVER_DIES
    while True:
        try:
            return process.start()
        except (ConnectionError, EOFError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _kill(process: BaseProcess) -> None:
    assert process.pid is not None
    # Before the worker has made itself a group there is none; after its death it may live on.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _main(
    variables: dict[str, str], connection: Any, target: Callable[..., None], args: tuple[Any, ...]
) -> None:
    os.setpgid(0, 0)
    name_process(multiprocessing.current_process().name)
    _leave_server()
    die_with(os.getppid())
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():  # it died before we asked
        os._exit(1)
    os.environ.clear()
    os.environ.update(variables)
    random.seed()
    np.random.seed()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN, which programs started from here would inherit.
        signal.signal(number, _pass)
    target(connection, *args)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # taking torch down politely takes half a second, and can hang


def _leave_server() -> None:
    """Lets the server that forked this process end with the parent, and this process with it.

    A forked process holds the pipe whose end tells the server to go, to start others by that
    server: then it would live as long as any worker, and so would they.
    """
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None and server._forkserver_pid is None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Sets variables that what is started, or imported, inside reads."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def name_process(name: str) -> None:
    """Shows ``name``, of which Linux keeps 15 bytes, where processes are listed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_NAME, name.encode())


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Has Linux send this process the signal ``number`` when the process ``parent`` is gone."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _pass(number: int, frame: FrameType | None) -> None:
    pass

"""Python environments spread over worker processes."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import select
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

from torchbeast.data import EnvSpec, Tree, tree_leaves
from torchbeast.data.shared import SharedBlock
from torchbeast.envs.registry import EnvConfig
from torchbeast.envs.vector import EnvError, Step, VectorEnv, env_seeds
from torchbeast.envs.worker import DONE, ERROR, RESET, STEP, Board, Job, kill_group, work

log = logging.getLogger("torchbeast")

START_TIMEOUT = 120.0  # seconds; a worker imports torch and makes its environments
ALIVE_CHECK = 1.0  # seconds between looks at whether silent workers live


class Worker(NamedTuple):
    """A process and the parent's end of its private pipe."""

    process: Any
    pipe: Connection
    columns: slice  # which environments it steps
    incarnation: int  # how often its predecessors were replaced


class ProcessEnv(VectorEnv):
    """B Python environments in ``config.env_workers`` processes, several in each.

    Observations, rewards, flags and actions lie in one block of shared memory; one private pipe
    per worker carries messages of one byte. Nothing is locked: a worker that dies can break
    only itself. It streams bit for bit what the same environments stream in one process.

    A worker whose environment raises ends the run: ``EnvError`` with its traceback. A worker
    that is killed, or silent for ``step_timeout`` seconds, is replaced at most ``max_restarts``
    times; its environments begin new episodes with new seeds, the broken ones count for nothing.

    Workers die with the thread that made them: close the environments before that thread ends.

    Args:
        config: which environments; ``env_workers`` divides ``num_envs``.
        spec: what one of them shows and takes.
        num_envs: B.
        seed: each environment gets its own, derived from this one.
        step_timeout: seconds that a step or reset of a worker's environments may take.
        max_restarts: workers replaced before the run is given up.
    """

    def __init__(
        self,
        config: EnvConfig,
        spec: EnvSpec,
        num_envs: int,
        seed: int,
        *,
        step_timeout: float = 60.0,
        max_restarts: int = 3,
    ) -> None:
        super().__init__(spec, num_envs, config.name)
        _check_picklable(config)
        self.restarts = 0
        self._config = config
        self._seed = seed
        self._step_timeout = step_timeout
        self._max_restarts = max_restarts
        self._block = SharedBlock(Board.num_bytes(spec, num_envs))
        self._board = Board(spec, num_envs, self._block.memory)
        self._actions = tree_leaves(self._board.action)
        self._aborted = np.zeros(num_envs, bool)
        self._poll = select.poll()
        self._by_pipe: dict[int, int] = {}
        self._failure = ""
        self._workers: list[Worker] = []
        self.spec.action.seed(seed)
        share = num_envs // config.env_workers
        try:
            for i in range(config.env_workers):
                self._workers.append(self._start(i, slice(i * share, (i + 1) * share), 0))
            for i in range(config.env_workers):
                self._await_start(i)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the workers and whatever they started; returns when they are gone."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.pipe.close()  # they read the end of the pipe and leave
        deadline = time.monotonic() + 2
        for worker in workers:
            wait([worker.process.sentinel], max(0, deadline - time.monotonic()))
            _end(worker)
        self._failure = self._failure or "it is closed"

    def _reset(self) -> Tree:
        self._tell(RESET)
        self._await_done()
        self._aborted[:] = False
        return self._board.obs

    def _send(self, action: Tree) -> None:
        for destination, source in zip(self._actions, tree_leaves(action), strict=True):
            destination[:] = source
        self._tell(STEP)

    def _recv(self) -> Step:
        self._await_done()
        board = self._board
        aborted = None
        if self._aborted.any():
            aborted = self._aborted.copy()
            self._aborted[:] = False
        return Step(board.obs, board.reward, board.terminated, board.truncated, None, aborted)

    def _tell(self, message: bytes) -> None:
        if self._failure:
            raise EnvError(f"{self.name} cannot go on: {self._failure}")
        for worker in self._workers:
            with contextlib.suppress(OSError):  # dead: seen when its answer is awaited
                worker.pipe.send_bytes(message)

    def _await_done(self) -> None:
        """Waits for every worker's answer; replaces those that cannot give one."""
        pending = set(range(len(self._workers)))
        deadline = time.monotonic() + self._step_timeout
        while pending:
            left = max(0.0, min(ALIVE_CHECK, deadline - time.monotonic()))
            ready = [self._by_pipe[fd] for fd, _ in self._poll.poll(left * 1000)]
            for i in ready:
                if not self._answered(i):
                    self._replace(i, "died")
                pending.discard(i)
            if ready:
                continue
            late = time.monotonic() >= deadline
            for i in sorted(pending):
                if late or not self._workers[i].process.is_alive():
                    self._replace(
                        i, f"gave no answer in {self._step_timeout} s" if late else "died"
                    )
                    pending.discard(i)

    def _answered(self, i: int) -> bool:
        """Returns whether worker i has done what it was told; False if it is dead."""
        try:
            message = self._workers[i].pipe.recv_bytes()
        except (EOFError, OSError):
            return False
        if message[:1] == ERROR:
            self._fail(f"{self._who(i)} raised\n{message[1:].decode(errors='replace')}")
        return message[:1] == DONE

    def _replace(self, i: int, what: str) -> None:
        """Puts a new worker in the place of worker i, whose environments begin new episodes."""
        while True:
            text = f"{self._who(i)} {what}"
            if self.restarts >= self._max_restarts:
                self._fail(
                    f"{text}, after {self.restarts} restarts of workers; find out why it dies"
                )
            self.restarts += 1
            log.warning("%s; restart %d of %d", text, self.restarts, self._max_restarts)
            old = self._workers[i]
            self._forget(old)
            self._workers[i] = self._start(i, old.columns, old.incarnation + 1)
            self._await_start(i)
            self._aborted[old.columns] = True
            worker = self._workers[i]
            with contextlib.suppress(OSError):
                worker.pipe.send_bytes(RESET)
            if not worker.pipe.poll(self._step_timeout):
                what = f"gave no answer in {self._step_timeout} s"
            elif self._answered(i):
                self._board.rewind(old.columns)
                return
            else:
                what = "died"

    def _start(self, i: int, columns: slice, incarnation: int) -> Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        seeds = env_seeds(self._seed, self.num_envs, incarnation)[columns]
        job = Job(self._config, self.spec, self.num_envs, columns, seeds, os.getpid())
        process = context.Process(
            target=work, args=(job, self._block, theirs), name=f"env-worker-{i}", daemon=True
        )
        with _one_thread_each():
            process.start()
        theirs.close()
        self._poll.register(ours, select.POLLIN)
        self._by_pipe[ours.fileno()] = i
        return Worker(process, ours, columns, incarnation)

    def _await_start(self, i: int) -> None:
        worker = self._workers[i]
        deadline = time.monotonic() + START_TIMEOUT
        while not worker.pipe.poll(ALIVE_CHECK):
            if time.monotonic() > deadline or not worker.process.is_alive():
                break
        if not (worker.pipe.poll() and self._answered(i)):
            worker.process.join(ALIVE_CHECK)
            self._fail(
                f"{self._who(i)} did not start (exit code {worker.process.exitcode}); its last "
                f'words are above. A script needs `if __name__ == "__main__":` around its start'
            )

    def _forget(self, worker: Worker) -> None:
        self._poll.unregister(worker.pipe)
        del self._by_pipe[worker.pipe.fileno()]
        worker.pipe.close()
        _end(worker)

    def _fail(self, text: str) -> None:
        self._failure = "it failed before (see the first error)"
        raise EnvError(text)

    def _who(self, i: int) -> str:
        worker = self._workers[i]
        columns = worker.columns
        return (
            f"{self.name}: worker {i} (environments {columns.start} to {columns.stop - 1}, pid "
            f"{worker.process.pid}, incarnation {worker.incarnation}, seed {self._seed})"
        )


def _end(worker: Worker) -> None:
    # The group is killed before its leader is reaped: until then nobody else can get the number.
    kill_group(worker.process.pid)
    worker.process.join()
    worker.process.close()


def _check_picklable(config: EnvConfig) -> None:
    try:
        pickle.dumps(config)
    except Exception as error:
        raise ValueError(
            f"expected a function that worker processes can import, got {config.name} ({error}); "
            f"define it at the top level of a module, or use --env_workers=0"
        ) from error


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Lets processes started inside begin with one thread in each numeric library."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

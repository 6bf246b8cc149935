"""Python environments spread over worker processes."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import time
from typing import NamedTuple

import numpy as np

from torchbeast.data import EnvSpec, Tree, tree_leaves
from torchbeast.data.process import Worker, close_workers
from torchbeast.data.shared import SharedBlock
from torchbeast.envs.registry import EnvConfig
from torchbeast.envs.vector import EnvError, Step, VectorEnv, env_seeds
from torchbeast.envs.worker import DONE, ERROR, RESET, STEP, Board, Job, work

log = logging.getLogger("torchbeast")

START_TIMEOUT = 120.0  # seconds; a worker imports torch and makes its environments
ALIVE_CHECK = 1.0  # seconds between looks at whether silent workers live


class Crew(NamedTuple):
    """A worker process and what it does."""

    worker: Worker
    columns: slice  # the environments it steps
    incarnation: int  # how often its predecessors were replaced


class ProcessEnv(VectorEnv):
    """B Python environments in ``config.env_workers`` processes, several in each.

    Observations, rewards, flags and actions lie in one block of shared memory; one private pipe
    per worker carries messages of one byte. Nothing is locked: a worker that dies can break
    only itself. It streams bit for bit what the same environments stream in one process.

    A worker whose environment raises ends the run: ``EnvError`` with its traceback. A worker
    that is killed, or silent for ``step_timeout`` seconds, is replaced at most ``max_restarts``
    times; its environments begin new episodes with new seeds, the broken ones count for nothing.

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
        self._crews: list[Crew] = []
        self.spec.action.seed(seed)
        share = num_envs // config.env_workers
        try:
            for i in range(config.env_workers):
                self._crews.append(self._start(i, slice(i * share, (i + 1) * share), 0))
            for i in range(config.env_workers):
                self._await_start(i)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the workers and whatever they started; returns when they are gone."""
        crews, self._crews = self._crews, []
        close_workers([crew.worker for crew in crews])
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
        for crew in self._crews:
            with contextlib.suppress(OSError):  # dead: seen when its answer is awaited
                os.write(crew.worker.connection.fileno(), message)

    def _await_done(self) -> None:
        """Waits for every worker's answer; replaces those that cannot give one."""
        pending = set(range(len(self._crews)))
        deadline = time.monotonic() + self._step_timeout
        while pending:
            left = max(0.0, min(ALIVE_CHECK, deadline - time.monotonic()))
            ready = [self._by_pipe[fd] for fd, _ in self._poll.poll(left * 1000)]
            for i in ready:
                if not self._answered(i):
                    self._replace(i, late=False)
                pending.discard(i)
            if ready:
                continue
            late = time.monotonic() >= deadline
            for i in sorted(pending):
                if late or not self._crews[i].worker.alive:
                    self._replace(i, late)
                    pending.discard(i)

    def _answered(self, i: int) -> bool:
        """Returns whether worker i has done what it was told; False if it is dead."""
        connection = self._crews[i].worker.connection
        with contextlib.suppress(EOFError, OSError):
            message = os.read(connection.fileno(), 1)
            if message == ERROR:
                text = connection.recv_bytes().decode(errors="replace")
                self._fail(f"{self._who(i)} raised\n{text}")
            return message == DONE
        return False

    def _replace(self, i: int, late: bool) -> None:
        """Puts a new worker in the place of worker i, whose environments begin new episodes."""
        while True:
            old = self._crews[i]
            text = f"{self._who(i)} gave no answer in {self._step_timeout} s"
            if not late:
                old.worker.wait(ALIVE_CHECK)
                text = f"{self._who(i)} died: {old.worker.exit_text()}"
            self._forget(old.worker)
            if self.restarts >= self._max_restarts:
                self._fail(f"{text}, after {self.restarts} restarts of workers; find out why")
            self.restarts += 1
            log.warning("%s; restart %d of %d", text, self.restarts, self._max_restarts)
            crew = self._crews[i] = self._start(i, old.columns, old.incarnation + 1)
            self._await_start(i)
            with contextlib.suppress(OSError):
                os.write(crew.worker.connection.fileno(), RESET)
            late = not crew.worker.connection.poll(self._step_timeout)
            if not late and self._answered(i):
                self._board.rewind(old.columns)
                self._aborted[old.columns] = True
                return

    def _start(self, i: int, columns: slice, incarnation: int) -> Crew:
        seeds = env_seeds(self._seed, self.num_envs, incarnation)[columns]
        job = Job(self._config, self.spec, self.num_envs, columns, seeds)
        worker = Worker(work, (job, self._block), name=f"env-worker-{i}")
        self._poll.register(worker.connection, select.POLLIN)
        self._by_pipe[worker.connection.fileno()] = i
        return Crew(worker, columns, incarnation)

    def _await_start(self, i: int) -> None:
        worker = self._crews[i].worker
        deadline = time.monotonic() + START_TIMEOUT
        while not worker.connection.poll(ALIVE_CHECK):
            if not worker.alive or time.monotonic() > deadline:
                break
        if not (worker.connection.poll() and self._answered(i)):
            worker.wait(ALIVE_CHECK)
            self._fail(
                f"{self._who(i)} did not start ({worker.exit_text()}); its last words are above. "
                f'A script needs `if __name__ == "__main__":` around what starts workers'
            )

    def _forget(self, worker: Worker) -> None:
        self._poll.unregister(worker.connection)
        del self._by_pipe[worker.connection.fileno()]
        worker.kill()

    def _fail(self, text: str) -> None:
        self._failure = "it failed before (see the first error)"
        raise EnvError(text)

    def _who(self, i: int) -> str:
        worker, columns, incarnation = self._crews[i]
        return (
            f"{self.name}: worker {i} (environments {columns.start} to {columns.stop - 1}, pid "
            f"{worker.pid}, incarnation {incarnation}, seed {self._seed})"
        )


def _check_picklable(config: EnvConfig) -> None:
    try:
        pickle.dumps(config)
    except Exception as error:
        raise ValueError(
            f"expected a function that worker processes can import, got {config.name} ({error}); "
            f"define it at the top level of a module, or use --env_workers=0"
        ) from error

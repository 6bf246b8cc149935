"""Several learners on one machine: each acts and learns with its share of the batch."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from torchbeast.algorithms.base import Diverged
from torchbeast.data.process import Worker
from torchbeast.envs.vector import Episode
from torchbeast.runners.build import build
from torchbeast.runners.config import RunConfig
from torchbeast.runners.process import START_TIMEOUT

# A dead learner is noticed at once; this bounds one that is frozen. Environments may be slow.
TIMEOUT = datetime.timedelta(minutes=5)


class RankFailed(RuntimeError):
    """Another learner of this run ended; the message holds its traceback."""


class Ranks:
    """The other learners of a run, seen from rank 0; none if there is one learner.

    Every rank makes the same number of updates. Rank 0 decides after each whether to go on, and
    alone logs and saves.

    Args:
        config: a checked config.
        state: what every rank starts from, as ``Algorithm.state_dict`` gives it.
        steps: environment steps learned from so far.
        version: updates so far.
    """

    def __init__(
        self,
        config: RunConfig,
        state: dict[str, Any],
        steps: int = 0,
        version: int = 0,
    ) -> None:
        self._followers: list[Worker] = []
        self._episodes: list[Episode] = []
        self._size = config.system.num_learners
        # What all learners' schedules go by; None: there is one learner, which counts itself.
        self.steps: int | None = None
        if self._size == 1:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="torchbeast-")
        store = pathlib.Path(self._folder.name) / "store"
        for rank in range(1, self._size):
            arguments = (config, rank, store, state, steps, version)
            self._followers.append(Worker(follow, arguments, name=f"learner-{rank}"))
        try:
            self._await_start()
            _join(store, 0, self._size)
        except BaseException:
            self.close()
            raise

    def agree(self, stop: bool, steps: int) -> bool:
        """Returns ``stop`` after telling it, and the steps so far, to all; takes in their episodes.

        Raises:
            RankFailed: one of them ended.
        """
        if self._followers:
            with self.failing_with_traceback():
                _broadcast(stop, steps)
            self._receive()
            self.steps = steps
        return stop

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended on other ranks since the last call."""
        taken, self._episodes = self._episodes, []
        return taken

    @contextlib.contextmanager
    def failing_with_traceback(self) -> Iterator[None]:
        """Turns the broken connection to a dead rank into RankFailed with that rank's traceback."""
        try:
            yield
        except Diverged:  # on all ranks at once, and no broken connection
            raise
        except RuntimeError as error:
            dead = [worker for worker in self._followers if worker.wait(1.0)]
            self._receive()
            if not dead:
                raise
            raise RankFailed(f"{dead[0].name} ended ({dead[0].exit_text()})") from error

    def close(self) -> None:
        """Ends the other learners."""
        for worker in self._followers:
            worker.kill()
        if self._followers:
            self._followers = []
            # A group with dead members cannot be ended politely.
            with contextlib.suppress(RuntimeError):
                if dist.is_initialized():
                    dist.destroy_process_group()
            self._folder.cleanup()

    def _await_start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        for worker in self._followers:
            while not worker.connection.poll(0.2):
                late = time.monotonic() > deadline
                if late or not worker.alive:
                    raise RankFailed(f"{worker.name} did not start ({worker.exit_text()})")
        self._receive()

    def _receive(self) -> None:
        for rank, worker in enumerate(self._followers, start=1):
            with contextlib.suppress(EOFError, OSError):
                while worker.connection.poll():
                    kind, content = worker.connection.recv()
                    if kind == "failed":
                        raise RankFailed(f"learner {rank} of {self._size} failed:\n{content}")
                    self._episodes += content


def follow(
    connection: Connection,
    config: RunConfig,
    rank: int,
    store: pathlib.Path,
    state: dict[str, Any],
    steps: int,
    version: int,
) -> None:
    """Runs learner ``rank``: the same loop as rank 0's, without logs and files."""
    try:
        algorithm, source, learner = build(config, rank, steps)
        connection.send(("episodes", []))  # says that all is made
        _join(store, rank, config.system.num_learners)
        algorithm.load_state_dict(state)
        learner.resume(steps, version)
        while True:
            stop, steps_of_all = _broadcast(False, 0)
            if stop:
                break
            source.fill()
            learner.step(steps_of_all)
            learner.metrics()
            connection.send(("episodes", source.episodes()))
        source.close()
    except Exception:
        with contextlib.suppress(OSError):
            connection.send(("failed", traceback.format_exc()))


def _join(store: pathlib.Path, rank: int, size: int) -> None:
    dist.init_process_group(
        "gloo", init_method=store.as_uri(), rank=rank, world_size=size, timeout=TIMEOUT
    )


def _broadcast(stop: bool, steps: int) -> tuple[bool, int]:
    """Returns what rank 0 says: whether to stop, and the environment steps so far."""
    told = torch.tensor([int(stop), steps])
    dist.broadcast(told, 0)
    return bool(told[0]), int(told[1])

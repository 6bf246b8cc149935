"""Where the other learners of a run come from: processes of this machine, or torchrun's."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import tempfile
from multiprocessing.connection import Connection
from types import FrameType
from typing import NamedTuple, Protocol

from torchbeast.data.process import Worker
from torchbeast.runners.checks import ConfigError
from torchbeast.runners.config import RunConfig
from torchbeast.runners.follow import follow, log_to_stderr
from torchbeast.runners.meeting import RankFailed


class Followers(Protocol):
    """Learners 1 and up of a run. Each calls ``follow`` with the address that ``start`` is told."""

    @property
    def address(self) -> str:
        """Where rank 0 opens the meeting, as ``Meeting`` takes it."""

    def start(self, address: str) -> None:
        """Starts all; they come to the meeting at ``address``."""

    def failure(self) -> str | None:
        """Returns how one of them ended; None if none did, as far as is known here."""

    def close(self) -> None:
        """Ends those that have not ended by themselves."""


class Spawned:
    """Followers that are processes of this machine, children of rank 0; none for one learner."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._workers: list[Worker] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def address(self) -> str:
        """A file: nobody else on the machine can reach it, and no port is open."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="torchbeast-")
        return (pathlib.Path(self._folder.name) / "store").as_uri()

    def start(self, address: str) -> None:
        """Starts all; they come to the meeting at ``address``."""
        for rank in range(1, self._config.system.num_learners):
            arguments = (self._config, rank, address)
            self._workers.append(Worker(_follow_parent, arguments, name=f"learner-{rank}"))

    def failure(self) -> str | None:
        """Returns how one of them ended; None if all run."""
        for worker in self._workers:
            if not worker.alive:
                return f"{worker.name} ended ({worker.exit_text()})"
        return None

    def close(self) -> None:
        """Kills all, and what they started."""
        for worker in self._workers:
            worker.kill()
        self._workers = []
        if self._folder is not None:
            self._folder.cleanup()


def _follow_parent(connection: Connection, config: RunConfig, rank: int, address: str) -> None:
    with contextlib.suppress(RankFailed):  # rank 0 was told, and raises it
        follow(config, rank, address)


class Torchrun(NamedTuple):
    """This process as torchrun (or another launcher that sets the same variables) made it.

    On rank 0 it stands for the followers, which the launcher starts and ends.
    """

    rank: int
    size: int
    address: str = "env://"

    @classmethod
    def here(cls) -> Torchrun | None:
        """Returns what the environment variables say; None if no launcher set them.

        Raises:
            ConfigError: they are not whole numbers.
        """
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if any(name not in os.environ for name in names):
            return None
        try:
            return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        except ValueError as error:
            raise ConfigError(f"expected numbers in RANK and WORLD_SIZE, got: {error}") from None

    def applied(self, config: RunConfig) -> RunConfig:
        """Returns ``config`` with as many learners as were launched.

        Raises:
            ConfigError: it asks for another number.
        """
        asked = config.system.num_learners
        if asked not in (1, self.size):
            raise ConfigError(
                f"expected --num_learners {self.size}, as many processes as torchrun started "
                f"(WORLD_SIZE), got {asked}; leave --num_learners out"
            )
        system = dataclasses.replace(config.system, num_learners=self.size)
        return dataclasses.replace(config, system=system)

    def start(self, address: str) -> None:
        """Does nothing: the launcher did it."""

    def failure(self) -> str | None:
        """Returns None: only the launcher sees them."""

    def close(self) -> None:
        """Does nothing: they end by themselves, or the launcher ends them."""

    def follow(self, config: RunConfig) -> None:
        """Runs this process as learner ``rank`` above 0. Raises as ``follow`` does."""
        log_to_stderr()
        follow(config, self.rank, self.address, _leave_signals_to_rank_0)


def _leave_signals_to_rank_0() -> None:
    """Heeds no signal that the launcher sends to everybody: rank 0 saves, and all leave with it."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), _pass)


def _pass(number: int, frame: FrameType | None) -> None:
    pass

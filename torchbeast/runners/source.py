"""Where batches come from: the seam between one process and many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torchbeast.algorithms.base import Algorithm
from torchbeast.data.buffer import Buffer
from torchbeast.envs.vector import Episode, VectorEnv


class Interrupted(Exception):
    """The run was asked to stop in the middle of a rollout; that rollout is left unfinished."""


class ActingJob(NamedTuple):
    """What acting needs, wherever it runs; it can be pickled."""

    make_algorithm: Callable[[], Algorithm]
    make_env: Callable[[int, int, int], VectorEnv]  # (num_envs, seed, which of all actors)
    unroll_length: int


class Source(Protocol):
    """Fills the buffer of a learner with rollouts."""

    buffer: Buffer

    def fill(self) -> None:
        """Returns when the buffer has a batch ready.

        Raises:
            Interrupted: the run is to stop.
        """

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended since the last call."""

    def metrics(self) -> dict[str, float]:
        """Returns what there is to say about acting: restarts, time waited."""

    def snapshot(self) -> dict[str, Any] | None:
        """Returns the state of acting as plain data, None if it cannot be captured."""

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Goes on from a ``snapshot``."""

    def close(self) -> None:
        """Ends environments and processes."""

"""What acting and learning see of the place where rollouts wait."""

from __future__ import annotations

from typing import Any, Protocol

from torchbeast.data.rollout import Rollout
from torchbeast.data.slots import Slot


class Buffer(Protocol):
    """A RolloutQueue, from which each rollout is learned once, or a Replay."""

    @property
    def steps(self) -> int:
        """Returns the environment steps that count as made: learned from, or stored."""

    def put(self, slot: Slot, lane: int = 0) -> None:
        """Takes a filled slot of the actor ``lane``."""

    def allows(self, columns: int) -> bool:
        """Returns whether rollouts of ``columns`` environments may be under way to it."""

    def ready(self) -> bool:
        """Returns whether a batch can be learned from."""

    def get(self) -> Rollout:
        """Returns the next batch; it is the caller's until ``feedback``."""

    def feedback(self, priority: Any = None) -> None:
        """Ends the use of the last batch, with new priorities [B] if it is drawn by them."""

    def waiting(self) -> int:
        """Returns the columns that were put and have yet to be learned from."""

    def metrics(self) -> dict[str, float]:
        """Returns what there is to say about it."""

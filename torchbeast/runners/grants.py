"""The rights to fill slots: how many are out, and in which order the filled ones are taken."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from torchbeast.data.buffer import Buffer
from torchbeast.data.slots import Slot


class Owner(Protocol):
    """Whoever fills slots."""

    def can_fill(self) -> bool:
        """Returns whether a grant now would be filled soon."""


T = TypeVar("T", bound=Owner)


@dataclasses.dataclass(eq=False)
class Grant:
    """The right of somebody to fill a slot, until the buffer gets it."""

    owner: Any
    slot: Slot
    lane: int = 0  # whose rollout it became
    filled: bool = False


class Grants:
    """All rights that are out, over everybody who fills slots of one buffer.

    Without a limit on the lag, filled slots are taken as they come. With one, they are taken in the
    order of the grants: then no rollout can get older than the buffer allows, however slow whoever
    fills it, and runs repeat.

    Args:
        buffer: says how much may be under way, and gets what was filled.
        columns: environments of a slot.
        ordered: keep the order.
    """

    def __init__(self, buffer: Buffer, columns: int, ordered: bool) -> None:
        self._buffer = buffer
        self._columns = columns
        self._ordered = ordered
        self._out: deque[Grant] = deque()  # not yet in the buffer
        self._turn = 0

    def allowed(self) -> bool:
        """Returns whether one more may be given."""
        return self._buffer.allows((len(self._out) + 1) * self._columns)

    def next(self, owners: Sequence[T]) -> T | None:
        """Returns whose turn it is to be given one; None if none may be given, or nobody can."""
        if not self.allowed():
            return None
        for _ in owners:
            owner = owners[self._turn % len(owners)]
            self._turn += 1
            if owner.can_fill():
                return owner
        return None

    def give(self, owner: Any, slot: Slot) -> Grant:
        """Returns a new grant."""
        grant = Grant(owner, slot)
        self._out.append(grant)
        return grant

    def fill(self, grant: Grant, lane: int) -> None:
        """Takes the slot of a grant, filled by the actor ``lane``."""
        grant.lane, grant.filled = lane, True
        if not self._ordered:
            self._out.remove(grant)
            self._buffer.put(grant.slot, lane)
            return
        self._take()

    def lose(self, owner: Any) -> list[Grant]:
        """Returns the unfilled grants of ``owner``, which nobody will fill any more."""
        lost = [g for g in self._out if g.owner is owner and not g.filled]
        self._out = deque(g for g in self._out if g.filled or g.owner is not owner)
        self._take()
        return lost

    def clear(self) -> None:
        """Forgets all: nobody fills any more."""
        self._out.clear()

    def _take(self) -> None:
        while self._out and self._out[0].filled:
            grant = self._out.popleft()
            self._buffer.put(grant.slot, grant.lane)

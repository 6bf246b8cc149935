"""Which windows of a replay are drawn: each as often, or by priority.

A selection knows numbers only. Those that may be drawn are open; a closed one is never drawn, and
no late update changes that.
"""

from __future__ import annotations

import numpy as np

from torchbeast.data.replay.memory import Array
from torchbeast.data.replay.sum_tree import SumTree


class Uniform:
    """Draws each open item with the same probability, with replacement.

    Args:
        num_items: items are the numbers below it.
    """

    def __init__(self, num_items: int) -> None:
        self._count = 0
        self._open: Array = np.zeros(num_items, np.int64)  # the first _count are open
        self._place: Array = np.full(num_items, -1)  # of an item among them; -1: it is closed

    def __len__(self) -> int:
        """Returns how many items are open."""
        return self._count

    def open(self, items: Array, priority: Array | None = None) -> None:
        """Opens closed items [N], each named once; their priority does not matter."""
        end = self._count + len(items)
        self._open[self._count : end] = items
        self._place[items] = np.arange(self._count, end)
        self._count = end

    def close(self, items: Array) -> None:
        """Closes those of the items [N], each named once, that are open."""
        place = self._place.take(items)
        place = place[place >= 0]
        self._place[self._open[place]] = -1
        # What remains of the end moves into the holes before it.
        self._count -= len(place)
        moved = self._open[self._count : self._count + len(place)]
        moved = moved[self._place[moved] >= 0]
        holes = place[place < self._count]
        self._open[holes] = moved
        self._place[moved] = holes

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Returns n open items, and how many times more often than uniformly they come: 1."""
        # Generator.integers costs three times as much; the bias of this is below 1e-9.
        place = (rng.random(n) * self._count).astype(np.int64)
        return self._open.take(place), np.ones(n)

    def update(self, items: Array, priority: Array) -> None:
        """Does nothing: here all are alike."""

    def state(self) -> tuple[dict[str, Array], dict[str, float]]:
        """Returns the arrays and the numbers that ``restore`` takes."""
        return {"open": self._open[: self._count]}, {}

    def restore(self, arrays: dict[str, Array], numbers: dict[str, float]) -> None:
        """Takes back what ``state`` returned."""
        self._count = 0
        self._place.fill(-1)
        self.open(arrays["open"])


class Prioritized:
    """Draws an open item with probability (priority + epsilon)^exponent over the sum of all.

    Schaul et al. 2016, arXiv:1511.05952, section 3.3, the proportional variant. An item that is
    opened without a priority gets the largest one so far, at least 1, so that it is soon seen.

    Args:
        num_items: items are the numbers below it.
        exponent: 0 draws uniformly, 1 in proportion.
        epsilon: added to each priority, so that none is 0.
        stratified: one of n draws from each nth of the sum, which varies less.
    """

    def __init__(
        self, num_items: int, exponent: float, epsilon: float = 1e-6, stratified: bool = True
    ) -> None:
        if not 0 <= exponent < np.inf:
            raise ValueError(f"expected a --priority_exponent of at least 0, got {exponent}")
        self.exponent, self.epsilon, self.stratified = exponent, epsilon, stratified
        self.tree = SumTree(num_items)
        self._is_open: Array = np.zeros(num_items, bool)
        self._count = 0
        self._largest = 1.0

    def __len__(self) -> int:
        """Returns how many items are open."""
        return self._count

    def open(self, items: Array, priority: Array | None = None) -> None:
        """Opens closed items [N], each named once, with priorities [N] or the largest so far.

        Raises:
            ValueError: a priority is negative or not finite.
        """
        weight = self._largest**self.exponent if priority is None else self._weight(priority)
        self._is_open[items] = True
        self._count += len(items)
        self.tree.set(items, weight)

    def close(self, items: Array) -> None:
        """Closes those of the items [N], each named once, that are open."""
        items = items[self._is_open.take(items)]
        self._is_open[items] = False
        self._count -= len(items)
        self.tree.set(items, 0.0)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Returns n open items, and how many times more often than uniformly they come: N P(i)."""
        position = rng.random(n)
        if self.stratified:
            position = (np.arange(n) + position) / n
        items = self.tree.find(position)
        return items, self.tree.get(items) * (self._count / self.tree.total)

    def update(self, items: Array, priority: Array) -> None:
        """Gives items [N] new priorities [N]; of duplicates the last counts, closed ones stay so.

        Raises:
            ValueError: a priority is negative or not finite.
        """
        weight = self._weight(priority)
        still_open = self._is_open.take(items)
        self.tree.set(items[still_open], weight[still_open])

    def state(self) -> tuple[dict[str, Array], dict[str, float]]:
        """Returns the arrays and the numbers that ``restore`` takes."""
        items = self._is_open.nonzero()[0]
        return {"open": items, "weight": self.tree.get(items)}, {"largest": self._largest}

    def restore(self, arrays: dict[str, Array], numbers: dict[str, float]) -> None:
        """Takes back what ``state`` returned."""
        self.close(self._is_open.nonzero()[0])
        self._largest = numbers["largest"]
        self._is_open[arrays["open"]] = True
        self._count = len(arrays["open"])
        self.tree.set(arrays["open"], arrays["weight"])

    def _weight(self, priority: Array) -> Array:
        good = (priority >= 0) & (priority < np.inf)
        if not good.all():
            raise ValueError(
                f"expected priorities that are finite and at least 0, got {priority[~good][0]}; "
                f"lower --learning_rate, or look for rewards or observations that are not finite"
            )
        priority = priority.astype(np.float64) + self.epsilon
        if len(priority):
            self._largest = max(self._largest, float(priority.max()))
        return priority**self.exponent

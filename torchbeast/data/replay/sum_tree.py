"""A tree of sums, from which leaves are drawn in proportion to their weights."""

from __future__ import annotations

import numpy as np

from torchbeast.data.replay.memory import Array

FAN_OUT = 16  # wide and low: a level costs a few calls of numpy, whatever the batch
ROOTS = 4096  # sums that are searched at once at the top
BELOW_ONE = 1 - 2.0**-53


class SumTree:
    """Weights, all 0 at first, with sums of 16, of 256 and so on.

    A sum is always made anew from the numbers below it: nothing drifts.

    Args:
        size: number of leaves.
    """

    def __init__(self, size: int) -> None:
        counts = [size]
        while counts[-1] > ROOTS:
            counts.append(-(-counts[-1] // FAN_OUT))
        # Bottom up; all but the top level have their last group filled up with zeros.
        groups = [(-(-count // FAN_OUT), FAN_OUT) for count in counts[:-1]]
        self._groups: list[Array] = [np.zeros(shape) for shape in groups]
        self._top: Array = np.zeros(counts[-1])
        levels = [group.reshape(-1) for group in self._groups] + [self._top]
        self._leaves = levels[0]
        self._above = list(zip(self._groups, levels[1:], strict=True))
        self._cumulated: Array | None = None  # of the top level, made when it is needed

    def set(self, index: Array, weight: Array | float) -> None:
        """Gives leaves [N] new weights, finite and at least 0; of duplicates the last counts."""
        self._leaves[index] = weight
        for group, sums in self._above:
            index = index // FAN_OUT
            sums[index] = group.take(index, 0).sum(1)
        self._cumulated = None

    def get(self, index: Array) -> Array:
        """Returns the weights [N] of leaves."""
        return self._leaves.take(index)

    @property
    def total(self) -> float:
        """Returns the sum of all weights."""
        return float(self._cumulate()[-1])

    def find(self, position: Array) -> Array:
        """Returns for positions [N] in [0, 1) of the total the leaves that lie there, int64 [N].

        A leaf of weight 0 lies nowhere, whatever rounding does.

        Raises:
            ValueError: all weights are 0.
        """
        cumulated = self._cumulate()
        if not cumulated[-1] > 0:
            raise ValueError("expected a priority above 0 in the replay, got none")
        # Below the total, so that the first sum above it ends a leaf or a group that has weight.
        rest = np.minimum(position * cumulated[-1], cumulated[-1] * BELOW_ONE)
        index = cumulated.searchsorted(rest, side="right")
        rest -= cumulated[index] - self._top[index]
        for group in reversed(self._groups):
            sums = group.take(index, 0).cumsum(1)
            rest = np.minimum(np.maximum(rest, 0), sums[:, -1] * BELOW_ONE)
            child = (sums > rest[:, None]).argmax(1)
            index = index * FAN_OUT + child
            rest -= sums[np.arange(len(sums)), child] - group.reshape(-1)[index]
        return index

    def _cumulate(self) -> Array:
        if self._cumulated is None:
            self._cumulated = self._top.cumsum()
        return self._cumulated

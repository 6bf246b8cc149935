"""Stacks of frames that travel frame by frame: each step shows all but one for the second time."""

from __future__ import annotations

import numpy as np

from torchbeast.data.stacks import Array, breaks, words
from torchbeast.envs.remote.protobuf import array, sized


class Splitter:
    """Takes stacks [B, k, ...] apart into what the other side does not have yet.

    It compares with the stacks before, so that the other side has the same bits whatever an
    environment shows: at an episode's begin, and where what looks like a stack is none.
    """

    def __init__(self, like: Array) -> None:
        self._last = np.zeros_like(like)
        self._known = False  # whether the other side has the last stacks

    def forget(self) -> None:
        """Lets the next stacks go whole."""
        self._known = False

    def split(self, stacks: Array) -> tuple[Array, Array]:
        """Returns the newest frames [B, 1, ...], and which stacks [B] must go whole."""
        if self._known:
            whole = breaks(words(self._last, 2), words(stacks, 2))
        else:
            whole = np.ones(len(stacks), bool)
        self._last[:] = stacks
        self._known = True
        return np.ascontiguousarray(stacks[:, -1:]), whole


class Joiner:
    """Puts stacks [B, k, ...] together again."""

    def __init__(self, like: Array) -> None:
        self._stacks, self._last = np.zeros_like(like), np.zeros_like(like)
        self._newest = np.zeros_like(like[:, -1:], order="C")

    def join(self, newest: memoryview, whole: Array, stacks: memoryview) -> Array:
        """Returns the stacks of newest frames [B, 1, ...]; those that are ``whole`` as they came.

        The next call but one writes into the same array.

        Raises:
            WireError: a size is not what the spec says.
        """
        array(self._newest)[:] = sized(newest, self._newest.nbytes)
        self._stacks, self._last = self._last, self._stacks
        self._stacks[:, :-1] = self._last[:, 1:]
        self._stacks[:, -1:] = self._newest
        rows = np.flatnonzero(whole)
        size = self._stacks[0].nbytes
        sized(stacks, size * len(rows))
        for n, row in enumerate(rows):
            array(self._stacks[row])[:] = stacks[n * size : (n + 1) * size]
        return self._stacks

"""Stacks of frames, of which each frame is stored once."""

from __future__ import annotations

import numpy as np
import torch

from torchbeast.data.replay.frame_stack import FrameStack
from torchbeast.data.replay.memory import Array
from torchbeast.data.stacks import breaks, words

AGE = 0x7F  # bits of an age that count rows
REPEATED = 0x80  # bit of an age: the episode's first stack repeats its frame, else it has zeros


class StoredFrames:
    """The newest frame of each row, and how far back the stack of a row reaches.

    Args:
        frames: zeros [lanes * L * W + 1, *frame]; the last one stays zero, for padding.
        age: uint8 zeros [lanes * L * W]: rows since the first of the episode, at most k - 1.
        lanes: number of lanes.
        width: W.
        stack: k.
    """

    def __init__(self, frames: Array, age: Array, lanes: int, width: int, stack: int) -> None:
        self.stack = stack
        self._lane_size = len(age) // lanes
        self._width = width
        self._zeros = len(age)
        self._flat = frames
        self._tensor = torch.from_numpy(frames)
        self._age = age
        by_lane = (lanes, self._lane_size // width, width)
        self._frames_of = frames[:-1].reshape(*by_lane, *frames.shape[1:])
        self._age_of = age.reshape(by_lane)
        # By age: how far before the newest frame of a stack its frames lie, and which are zeros.
        back = np.arange(stack - 1, -1, -1)
        kept = (np.arange(256) & AGE)[:, None]
        self._back = np.minimum(back, kept) * width
        self._padding = (back > kept) & (np.arange(256)[:, None] < REPEATED)

    def append(self, lane: int, position: int, begun: bool, stacks: Array, first: Array) -> None:
        """Stores the rows [T, W, k, *frame] at ``position`` of a lane that has ``begun`` or not.

        Raises:
            ValueError: they are no stacks of what came before; nothing is stored.
        """
        if not begun and not first[0].all():
            raise ValueError(
                f"expected the first rows of a lane to begin episodes, as the frames before them "
                f"are not stored, got first {first[0].tolist()}; reset the environments"
            )
        rows = slice(position, position + len(first))
        ages = self._age_of[lane]
        repeats = self._check(stacks, first, self._stacks_before(lane, position))
        ages[rows] = self._ages(first, repeats, ages[position - 1])
        self._frames_of[lane, rows] = stacks[:, :, -1]

    def stacks(self, address: Array) -> FrameStack:
        """Returns the stacks at addresses [...], not yet stacked."""
        return FrameStack(self._tensor, torch.from_numpy(self._index(address)))

    def _index(self, address: Array) -> Array:
        age = self._age.take(address)
        back = self._back.take(age, 0)
        before_lane = back > (address % self._lane_size)[..., None]
        index: Array = address[..., None] - back
        index += before_lane * self._lane_size
        index[self._padding.take(age, 0)] = self._zeros
        return index

    def _stacks_before(self, lane: int, position: int) -> Array:
        before = (position - 1) % (self._lane_size // self._width)
        address = lane * self._lane_size + before * self._width + np.arange(self._width)
        return self._flat[self._index(address)]

    def _check(self, stacks: Array, first: Array, before: Array) -> Array:
        """Returns where [T, W] a first stack repeats its frame; raises for what is no stack."""
        stacks = words(stacks, 3)
        wrong = np.empty(first.shape, bool)
        wrong[0] = breaks(words(before, 2), stacks[0])
        wrong[1:] = breaks(stacks[:-1], stacks[1:])
        wrong &= ~first
        repeats = np.zeros(first.shape, bool)
        if first.any():
            begin = stacks[first]
            repeated = (begin[:, :-1] == begin[:, -1:]).all((1, 2))
            repeats[first] = repeated
            wrong[first] = ~repeated & begin[:, :-1].any((1, 2))
        if wrong.any():
            t, column = (int(x[0]) for x in wrong.nonzero())
            what = "zeros or one frame" if first[t, column] else "the newest of the row before"
            raise ValueError(
                f"expected the older {self.stack - 1} frames of a stack to be {what}, and they "
                f"are not in row {t} of environment {column}: its observations are no stack of "
                f"frames; --replay_whole_stacks stores them whole"
            )
        return repeats

    def _ages(self, first: Array, repeats: Array, before: Array) -> Array:
        row = np.arange(len(first))[:, None]
        began_before = -1 - (before & AGE).astype(
            np.int64
        )  # row of the episode's first, if not in here
        began = np.maximum(np.maximum.accumulate(np.where(first, row, -self.stack)), began_before)
        inside = np.take_along_axis(repeats, np.maximum(began, 0), 0)
        repeated = np.where(began >= 0, inside, before >= REPEATED)
        return np.minimum(row - began, self.stack - 1) | np.where(repeated, REPEATED, 0)

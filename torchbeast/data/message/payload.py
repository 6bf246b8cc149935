"""Where the arrays of a rollout lie in a payload: all but stacks of frames as they are."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import optree

from torchbeast.data.message.frames import Frames
from torchbeast.data.message.header import MessageError
from torchbeast.data.rollout import Rollout
from torchbeast.data.slots import slot_arrays
from torchbeast.data.spec import ArraySpec, is_spec
from torchbeast.data.stacks import Array

WORD = 8  # bytes to which every array is padded with zeros


class Payload:
    """Writes and reads the arrays of slots of one spec, in the order of their leaves.

    The frames of stacked observations, whose number varies, come last.

    Args:
        spec, unroll_length, batch_size: as of a Slot.
        frame_stack: k; above 1 observations are one array [k, ...], and each frame lies here once.

    Raises:
        ValueError: observations cannot be stacks of k frames.
    """

    def __init__(
        self, spec: Rollout, unroll_length: int, batch_size: int, frame_stack: int
    ) -> None:
        self.specs = slot_arrays(spec, unroll_length, batch_size)
        self._frames: Frames | None = None
        if frame_stack > 1:
            self._frames = Frames(_stack(spec, frame_stack), unroll_length, batch_size)
        self._places: list[tuple[int, ArraySpec]] = []  # offsets of the plain arrays
        self._plain_bytes = 0
        for leaf in self.specs[1:] if self._frames else self.specs:
            self._places.append((self._plain_bytes, leaf))
            self._plain_bytes += _padded(_num_bytes(leaf))
        self.most_bytes = self._plain_bytes + (self._frames.most_bytes if self._frames else 0)
        self.schema = _schema(spec, self.specs, frame_stack)

    def whole(self, arrays: list[Array]) -> Array | None:
        """Returns which stacks [T+1, B] must go whole, None if there are none."""
        return self._frames.whole(arrays[0]) if self._frames else None

    def num_bytes(self, whole: Array | None) -> int:
        """Returns the bytes that ``write`` fills."""
        if self._frames is None or whole is None:
            return self._plain_bytes
        return self._plain_bytes + self._frames.num_bytes(int(whole.sum()))

    def write(self, arrays: list[Array], whole: Array | None, raw: Array) -> None:
        """Writes the arrays of a slot into bytes ``raw`` [num_bytes]."""
        if self._frames is not None and whole is not None:
            self._frames.write(arrays[0], whole, raw[self._plain_bytes :])
            arrays = arrays[1:]
        for (offset, leaf), array in zip(self._places, arrays, strict=True):
            end = offset + _num_bytes(leaf)
            np.ndarray(leaf.shape, leaf.dtype, raw.data, offset)[...] = array
            raw[end : offset + _padded(_num_bytes(leaf))] = 0

    def check_size(self, num_bytes: int) -> None:
        """Raises MessageError unless a payload of so many bytes can be read."""
        more = num_bytes - self._plain_bytes
        fits = self._frames.can_be(more) if self._frames else more == 0
        if not fits:
            raise MessageError(
                f"expected a rollout of at most {self.most_bytes} bytes, in whole frames, got "
                f"{num_bytes}"
            )

    def read(self, raw: Array, arrays: list[Array]) -> None:
        """Fills the arrays of a slot from bytes whose size was checked.

        Raises:
            MessageError: the number of frames does not fit; nothing was written.
        """
        if self._frames is not None:
            self._frames.read(raw[self._plain_bytes :], arrays[0])
            arrays = arrays[1:]
        for (offset, leaf), array in zip(self._places, arrays, strict=True):
            array[...] = np.ndarray(leaf.shape, leaf.dtype, raw.data, offset)


def _stack(spec: Rollout, frame_stack: int) -> ArraySpec:
    obs: Any = spec.obs
    if not is_spec(obs) or obs.shape[:1] != (frame_stack,):
        raise ValueError(
            f"expected observations that are stacks of {frame_stack} frames along their first "
            f"axis, got {obs}"
        )
    return obs


def _schema(spec: Rollout, arrays: list[ArraySpec], frame_stack: int) -> int:
    """Returns a checksum of names, shapes and types."""
    tree: Any = tuple(spec)
    paths = optree.tree_paths(tree, is_leaf=is_spec)
    shapes = [(tuple(map(int, leaf.shape)), leaf.dtype.str) for leaf in arrays]
    digest = hashlib.blake2b(repr((paths, shapes, int(frame_stack))).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _num_bytes(leaf: ArraySpec) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // WORD) * WORD

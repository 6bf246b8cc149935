"""The frames of stacked observations: each once, as what it changes in the frame before."""

from __future__ import annotations

import math

import numpy as np

from torchbeast.data.message.header import MessageError
from torchbeast.data.spec import ArraySpec
from torchbeast.data.stacks import Array, breaks, words


class Frames:
    """Takes stacks [T+1, B, k, *frame] apart, and puts them together again, bit for bit.

    The bytes are: the newest frame of every stack, [T+1, B, *frame]; the older k - 1 of those that
    do not go on with the stack of the row before, [n, k-1, *frame], row 0 first; and a bit for
    each stack that says whether it is one of the n. Every frame but the oldest of a stack is XORed
    with the one before it: most of a picture stays, and zeros compress best.

    Args:
        stack: shape and type of one stack.
        unroll_length: T.
        batch_size: B.
    """

    def __init__(self, stack: ArraySpec, unroll_length: int, batch_size: int) -> None:
        self._rows = (unroll_length + 1, batch_size)
        self._k = stack.shape[0]
        frame_bytes = math.prod(stack.shape[1:]) * stack.dtype.itemsize
        self._newest_bytes = math.prod(self._rows) * frame_bytes
        self._older_bytes = (self._k - 1) * frame_bytes
        self._flag_bytes = -(-math.prod(self._rows) // 8)
        self.most_bytes = self.num_bytes(math.prod(self._rows))

    def num_bytes(self, whole: int) -> int:
        """Returns the bytes of a rollout of which so many stacks go whole."""
        return self._newest_bytes + whole * self._older_bytes + self._flag_bytes

    def can_be(self, num_bytes: int) -> bool:
        """Returns whether some rollout takes so many bytes."""
        least = self.num_bytes(self._rows[1])
        return least <= num_bytes <= self.most_bytes and not (
            (num_bytes - least) % max(1, self._older_bytes)
        )

    def whole(self, obs: Array) -> Array:
        """Returns which stacks [T+1, B] go whole: those of row 0, and those that do not go on."""
        stacks = words(obs, 3)
        whole = np.ones(self._rows, bool)
        for t in range(1, len(whole)):  # row by row: what is compared twice is still in the cache
            whole[t] = breaks(stacks[t - 1], stacks[t])
        return whole

    def write(self, obs: Array, whole: Array, raw: Array) -> None:
        """Writes stacks into bytes ``raw`` [num_bytes(whole.sum())]."""
        stacks = words(obs, 3)
        newest, older, flags = self._parts(raw)
        np.bitwise_xor(stacks[:, :, -1], stacks[:, :, -2], out=newest)
        at = 0
        for t, row in enumerate(whole):
            begun = stacks[t, row]
            part = older[at : at + len(begun)]
            part[:, 0] = begun[:, 0]
            np.bitwise_xor(begun[:, 1:-1], begun[:, :-2], out=part[:, 1:])
            at += len(begun)
        flags[:] = np.packbits(whole)

    def read(self, raw: Array, obs: Array) -> None:
        """Fills stacks from bytes of a size that ``can_be``.

        Raises:
            MessageError: the bits do not fit the number of stacks; nothing was written.
        """
        stacks = words(obs, 3)
        newest, older, flags = self._parts(raw)
        whole = np.unpackbits(flags, count=math.prod(self._rows)).reshape(self._rows).view(bool)
        if not whole[0].all() or whole.sum() != len(older):
            raise MessageError(
                f"expected {len(older)} whole stacks, those of row 0 first, got {whole.sum()}"
            )
        at = 0
        for t, row in enumerate(whole):
            if t:
                stacks[t, :, :-1] = stacks[t - 1, :, 1:]
            begun = np.flatnonzero(row)
            part = older[at : at + len(begun)]
            stacks[t, begun, :-1] = np.bitwise_xor.accumulate(part, axis=1)
            at += len(begun)
            np.bitwise_xor(newest[t], stacks[t, :, -2], out=stacks[t, :, -1])

    def _parts(self, raw: Array) -> tuple[Array, Array, Array]:
        """Returns views of newest frames [T+1, B, words], older [n, k-1, words], and bits."""
        newest, older = raw[: self._newest_bytes], raw[self._newest_bytes : -self._flag_bytes]
        return (
            words(newest.reshape(*self._rows, -1), 2),
            words(older.reshape(-1, self._k - 1, self._older_bytes // (self._k - 1)), 2),
            raw[-self._flag_bytes :],
        )

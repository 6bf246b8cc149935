"""Rollouts as messages: packed out of a slot, unpacked into one."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchbeast.data.message.codecs import (
    LARGEST,
    NUMBERS,
    check_codec,
    compress,
    decompress,
)
from torchbeast.data.message.header import (
    HEADER_BYTES,
    Header,
    MessageError,
    Stamp,
    checksum,
    read_header,
    write_header,
)
from torchbeast.data.message.payload import Payload
from torchbeast.data.rollout import Rollout, tree_leaves
from torchbeast.data.slots import Slot
from torchbeast.data.stacks import Array


class RolloutFormat:
    """Packs and unpacks the rollouts of one spec. Each thread has one of its own.

    Args:
        spec: a Rollout of ArraySpec.
        unroll_length: T.
        batch_size: B.
        frame_stack: k of EnvSpec; above 1 observations are one array [k, ...].

    Raises:
        ValueError: observations cannot be stacks of k frames, or a rollout is too large.
    """

    def __init__(
        self, spec: Rollout, unroll_length: int, batch_size: int, frame_stack: int = 1
    ) -> None:
        self._payload = Payload(spec, unroll_length, batch_size, frame_stack)
        if self._payload.most_bytes > LARGEST:
            raise ValueError(
                f"expected a rollout of at most {LARGEST} bytes, got one of up to "
                f"{self._payload.most_bytes}; lower --unroll_length or --envs_per_actor"
            )
        self.unroll_length = unroll_length
        self.batch_size = batch_size
        self.schema = self._payload.schema
        self._raw = np.empty(0, np.uint8)  # kept: fresh memory costs more than filling it

    def pack(self, slot: Slot, stamp: Stamp, codec: str) -> Array:
        """Returns a message uint8 [bytes], which shares no memory with the slot.

        Args:
            slot: a filled slot of the spec.
            stamp: who sends it.
            codec: one of ``installed``; what it does not make smaller goes as it is.

        Raises:
            ValueError: the slot is of another shape, or there is no such codec here.
        """
        check_codec(codec)
        arrays = self._arrays(slot)
        whole = self._payload.whole(arrays)
        size = self._payload.num_bytes(whole)
        message = np.empty(HEADER_BYTES + size, np.uint8)
        raw = message[HEADER_BYTES:] if codec == "none" else self._scratch(size)
        self._payload.write(arrays, whole, raw)
        if codec != "none":
            payload = np.frombuffer(compress(codec, raw), np.uint8)
            if len(payload) >= size:
                codec, payload = "none", raw
            message = np.empty(HEADER_BYTES + len(payload), np.uint8)
            message[HEADER_BYTES:] = payload
        sizes = (size, len(message) - HEADER_BYTES, checksum(message[HEADER_BYTES:]))
        shape = (self.schema, self.unroll_length, self.batch_size)
        header = write_header(Header(NUMBERS[codec], *shape, *stamp, *sizes))
        message[:HEADER_BYTES] = np.frombuffer(header, np.uint8)
        return message

    def stamp(self, message: Any) -> Stamp:
        """Returns who sent a message, from its header alone.

        Raises:
            MessageError: it is no message of this format.
        """
        header = self._header(_bytes(message))
        return Stamp(header.worker, header.incarnation, header.sequence)

    def unpack(self, message: Any, slot: Slot) -> Stamp:
        """Fills a slot of the spec from the bytes of a message, and returns who sent it.

        Raises:
            MessageError: it is damaged, or of other settings; the slot is as it was.
            ValueError: the slot is of another shape.
        """
        arrays = self._arrays(slot)
        view = _bytes(message)
        header = self._header(view)
        payload = view[HEADER_BYTES:]
        if checksum(payload) != header.payload_checksum:
            raise MessageError("expected the rollout that was sent, got a damaged one (a checksum)")
        self._payload.check_size(header.raw_bytes)
        raw = decompress(header.codec, payload, header.raw_bytes)
        self._payload.read(np.frombuffer(raw, np.uint8), arrays)
        return Stamp(header.worker, header.incarnation, header.sequence)

    def _header(self, view: memoryview) -> Header:
        header = read_header(view)
        if header.schema != self.schema:
            raise MessageError(
                f"expected rollouts of {self.unroll_length} steps x {self.batch_size} environments "
                f"(schema {self.schema:016x}), got {header.unroll_length} x {header.batch_size} "
                f"(schema {header.schema:016x}): the sender has other settings; start all with "
                f"the same --env, --unroll_length, --envs_per_actor and model"
            )
        return header

    def _arrays(self, slot: Slot) -> list[Array]:
        arrays: list[Array] = tree_leaves(tuple(slot.arrays))
        expected = [(leaf.shape, leaf.dtype) for leaf in self._payload.specs]
        got = [(array.shape, array.dtype) for array in arrays]
        if got != expected:
            raise ValueError(f"expected a slot of arrays {expected}, got {got}")
        return arrays

    def _scratch(self, size: int) -> Array:
        if len(self._raw) < size:
            self._raw = np.empty(size, np.uint8)
        return self._raw[:size]


def _bytes(message: Any) -> memoryview:
    try:
        view = memoryview(message)
        return view.cast("B") if view.nbytes else memoryview(b"")
    except TypeError as error:
        raise MessageError(f"expected the bytes of a rollout, got {type(message)}") from error

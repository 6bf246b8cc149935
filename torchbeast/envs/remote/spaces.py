"""Spaces of Gymnasium as messages ``Space`` of the protocol, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from torchbeast.envs.remote.protobuf import (
    Fields,
    Parts,
    WireError,
    array,
    data,
    number,
    packed,
    text,
)

BOX, DISCRETE, MULTI_DISCRETE, MULTI_BINARY, DICT, TUPLE = range(1, 7)
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
MAX_ELEMENTS = 1 << 28  # of all arrays of a space together: what a peer says is allocated here
MAX_DEPTH = 32  # of spaces in spaces
DTYPES = ["bool", *INTEGERS, "float16", "float32", "float64"]


def encode_space(space: spaces.Space[Any]) -> Parts:
    """Returns the message of a space.

    Raises:
        ValueError: it has no fixed shape (Text, Graph, Sequence).
    """
    if isinstance(space, spaces.Dict):
        keys = sorted(space.spaces)  # the order of leaves
        named = [part for key in keys for part in data(6, [key.encode()])]
        return number(1, DICT) + named + _parts([space.spaces[key] for key in keys])
    if isinstance(space, spaces.Tuple):
        return number(1, TUPLE) + _parts(space.spaces)
    if isinstance(space, spaces.Box):
        return _leaf(BOX, space, space.low, space.high)
    if isinstance(space, spaces.Discrete):
        return _leaf(DISCRETE, space, space.start, space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return _leaf(MULTI_DISCRETE, space, space.start, space.start + space.nvec - 1)
    if isinstance(space, spaces.MultiBinary):
        return _leaf(MULTI_BINARY, space, 0, 1)
    raise ValueError(f"expected a space of fixed shape, got {space}")


def decode_space(message: memoryview) -> spaces.Space[Any]:
    """Returns the space of a message.

    Raises:
        WireError: the message is of no space that is known here.
    """
    return _Decoder().space(message)


class _Decoder:
    """Reads one space with all that is in it, and nothing that is too large."""

    def __init__(self) -> None:
        self._left = MAX_ELEMENTS

    def space(self, message: memoryview, depth: int = 0) -> spaces.Space[Any]:
        if depth > MAX_DEPTH:
            raise WireError(f"expected at most {MAX_DEPTH} spaces in each other, got more")
        fields = Fields(message)
        kind = fields.number(1)
        if kind not in (DICT, TUPLE):
            return self._leaf(kind, fields)
        parts = [self.space(part, depth + 1) for part in fields.each(7)]
        if kind == TUPLE:
            return spaces.Tuple(parts)
        keys = [text(key) for key in fields.each(6)]
        if len(keys) != len(parts) or keys != sorted(set(keys)):
            raise WireError(f"expected sorted keys for {len(parts)} parts of a Dict, got {keys}")
        return spaces.Dict(dict(zip(keys, parts, strict=True)))

    def _leaf(self, kind: int, fields: Fields) -> spaces.Space[Any]:
        if fields.text(2) not in DTYPES:
            raise WireError(f"expected a dtype of {', '.join(DTYPES)}, got {fields.text(2)!r}")
        dtype, shape = np.dtype(fields.text(2)), tuple(fields.numbers(3))
        # Also of an array without elements, whose other dimensions NumPy multiplies.
        self._left -= math.prod(max(1, length) for length in shape)
        if self._left < 0:
            raise WireError(f"expected a space of at most {MAX_ELEMENTS} numbers, got {shape}")
        low, high = (_bound(fields.data(field), dtype, shape) for field in (4, 5))
        try:
            return _made(kind, dtype, low, high)
        except AssertionError as error:  # of Gymnasium
            raise WireError(
                f"expected a space, got one whose bounds make no sense: {error}"
            ) from error


def _made(kind: int, dtype: Any, low: Any, high: Any) -> spaces.Space[Any]:
    if kind == BOX:
        return spaces.Box(low, high, low.shape, dtype.type)
    if kind == DISCRETE:
        return spaces.Discrete(int(high) - int(low) + 1, start=int(low), dtype=dtype.type)
    if kind == MULTI_DISCRETE:
        return spaces.MultiDiscrete(high - low + 1, dtype.type, start=low)
    if kind == MULTI_BINARY:
        return spaces.MultiBinary(len(low) if low.ndim == 1 else list(low.shape))
    raise WireError(f"expected a known kind of space, got {kind}; is one side newer?")


def _parts(inner: Sequence[spaces.Space[Any]]) -> Parts:
    return [part for space in inner for part in data(7, encode_space(space))]


def _leaf(kind: int, space: spaces.Space[Any], low: Any, high: Any) -> Parts:
    assert space.shape is not None
    dtype = np.dtype(space.dtype)
    bounds: Parts = []
    for field, bound in ((4, low), (5, high)):
        values = np.asarray(bound, dtype).reshape(-1)
        if len(values) and (values == values[0]).all():
            values = values[:1]
        bounds += data(field, [array(values.astype(dtype.newbyteorder("<")))])
    return number(1, kind) + data(2, [dtype.name.encode()]) + packed(3, space.shape) + bounds


def _bound(values: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    size = math.prod(shape)
    if len(values) not in (dtype.itemsize, size * dtype.itemsize):
        raise WireError(f"expected a bound of 1 or {size} {dtype}, got {len(values)} bytes")
    found = np.frombuffer(values, dtype.newbyteorder("<")).astype(dtype)
    return np.full(shape, found[0], dtype) if len(found) == 1 else found.reshape(shape)

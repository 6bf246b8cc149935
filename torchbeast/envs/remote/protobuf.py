"""Protocol Buffers as they lie on the wire, as much of them as ``protocol.proto`` needs.

No library: its generated code is tied to one of its major versions, and it copies each array
twice on the way out of a message. What is here leaves arrays where gRPC has put them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

Parts = list[bytes | memoryview]  # of an encoded message: joined once, at the very end

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; there are no others in proto3


class WireError(ValueError):
    """Bytes that are no message of the protocol."""


def number(field: int, value: int) -> Parts:
    """Returns a field of an unsigned number."""
    return [_varint(field << 3 | VARINT) + _varint(value)]


def data(field: int, parts: Iterable[bytes | memoryview]) -> Parts:
    """Returns a field of bytes, of text or of a message: ``parts`` one after the other."""
    parts = list(parts)
    return [_varint(field << 3 | BYTES) + _varint(sum(map(len, parts))), *parts]


def packed(field: int, values: Iterable[int]) -> Parts:
    """Returns a repeated field of numbers."""
    return data(field, [_varint(value) for value in values])


def array(x: np.ndarray[Any, Any]) -> memoryview:
    """Returns the bytes of an array that is contiguous and little-endian, without a copy."""
    flat: Any = x.reshape(-1).view(np.uint8)
    return memoryview(flat)


def sized(message: memoryview, num_bytes: int) -> memoryview:
    """Returns ``message``.

    Raises:
        WireError: it is not of ``num_bytes``.
    """
    if len(message) != num_bytes:
        raise WireError(f"expected {num_bytes} bytes of arrays, got {len(message)}")
    return message


def text(message: memoryview) -> str:
    """Returns the text that lies in ``message``.

    Raises:
        WireError: it is none.
    """
    try:
        return str(message, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"expected text, got bytes: {error}") from error


class Fields:
    """A message taken apart: its values by field number, the bytes among them not copied.

    A field that is not there reads as 0 or empty, as in every implementation of proto3.

    Raises:
        WireError: the bytes are no message.
    """

    def __init__(self, message: bytes | memoryview) -> None:
        self._values: dict[int, list[int | memoryview]] = {}
        view, at = memoryview(message), 0
        while at < len(view):
            tag, at = _read_varint(view, at)
            value, at = _read_value(view, at, tag & 7)
            self._values.setdefault(tag >> 3, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self._values

    def number(self, field: int) -> int:
        """Returns the value of a field of a number."""
        value = self._values.get(field, [0])[-1]
        if not isinstance(value, int):
            raise WireError(f"expected a number in field {field}, got bytes")
        return value

    def data(self, field: int) -> memoryview:
        """Returns the value of a field of bytes."""
        return self.each(field)[-1] if field in self else memoryview(b"")

    def text(self, field: int) -> str:
        """Returns the value of a field of text."""
        return text(self.data(field))

    def each(self, field: int) -> list[memoryview]:
        """Returns the values of a repeated field of bytes, text or messages."""
        values = [x for x in self._values.get(field, []) if not isinstance(x, int)]
        if len(values) != len(self._values.get(field, [])):
            raise WireError(f"expected bytes in field {field}, got a number")
        return values

    def numbers(self, field: int) -> list[int]:
        """Returns the values of a repeated field of numbers, packed together or not."""
        result = []
        for value in self._values.get(field, []):
            if isinstance(value, int):
                result.append(value)
                continue
            at = 0
            while at < len(value):
                one, at = _read_varint(value, at)
                result.append(one)
        return result


def _varint(value: int) -> bytes:
    if not 0 <= value < 1 << 64:
        raise ValueError(f"expected a number from 0 to 2**64 - 1, got {value}")
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(view):
            break
        byte = view[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value & (1 << 64) - 1, at + i + 1
    raise WireError(f"expected a number at byte {at} of a message of {len(view)}")


def _read_value(view: memoryview, at: int, kind: int) -> tuple[int | memoryview, int]:
    if kind == VARINT:
        return _read_varint(view, at)
    if kind == BYTES:
        size, at = _read_varint(view, at)
    elif kind in (FIXED32, FIXED64):
        size = 4 if kind == FIXED32 else 8
    else:
        raise WireError(f"expected a wire type of proto3 before byte {at}, got {kind}")
    if at + size > len(view):
        raise WireError(f"expected {size} bytes at byte {at} of a message of {len(view)}")
    return view[at : at + size], at + size

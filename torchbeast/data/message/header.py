"""What is known of a message before it is unpacked."""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

MAGIC = b"TBRo"
VERSION = 1
_START = struct.Struct("<4sH")  # magic, version: the same in every version
_HEADER = struct.Struct("<4sHHQIIQQQQQI")  # magic, version, and the fields of Header
_CHECKSUM = struct.Struct("<I")  # of all that
HEADER_BYTES = _HEADER.size + _CHECKSUM.size


class MessageError(ValueError):
    """A message that is damaged, or of other settings than the receiver's."""


class Stamp(NamedTuple):
    """Who sent a rollout: all of them between 0 and 2**64 - 1."""

    worker: int
    incarnation: int  # which of the processes that have been this worker
    sequence: int  # counts the rollouts of an incarnation


class Header(NamedTuple):
    """The fields of a header, in their order after magic and version."""

    codec: int  # a number of codecs.NUMBERS
    schema: int  # of the rollout's shapes and types
    unroll_length: int
    batch_size: int
    worker: int
    incarnation: int
    sequence: int
    raw_bytes: int  # of the payload when it is decompressed
    payload_bytes: int
    payload_checksum: int


def checksum(data: Any) -> int:
    """Returns the CRC-32 of bytes. The fastest in the standard library that misses no byte."""
    return zlib.crc32(data)


def write_header(header: Header) -> bytes:
    """Returns the bytes of a header.

    Raises:
        ValueError: a number does not fit.
    """
    try:
        start = _HEADER.pack(MAGIC, VERSION, *header)
    except struct.error as error:
        raise ValueError(f"expected numbers that fit into a header, got {header}") from error
    return start + _CHECKSUM.pack(checksum(start))


def read_header(message: memoryview) -> Header:
    """Returns the header of a message whose length is what the header says.

    Raises:
        MessageError: it is no such message.
    """
    if len(message) < HEADER_BYTES:
        raise MessageError(
            f"expected a rollout of at least {HEADER_BYTES} bytes, got {len(message)}: it was cut "
            f"short"
        )
    magic, version = _START.unpack_from(message)
    if magic != MAGIC:
        raise MessageError(f"expected a rollout, which begins with {MAGIC!r}, got {magic!r}")
    if version != VERSION:
        raise MessageError(
            f"expected a rollout in format {VERSION}, got format {version}: the sender runs "
            f"another version of TorchBeast; install the same on all machines"
        )
    (expected,) = _CHECKSUM.unpack_from(message, _HEADER.size)
    if checksum(message[: _HEADER.size]) != expected:
        raise MessageError("expected the header that was sent, got a damaged one (its checksum)")
    header = Header(*_HEADER.unpack_from(message)[2:])
    if len(message) != HEADER_BYTES + header.payload_bytes:
        raise MessageError(
            f"expected {header.payload_bytes} bytes after the header, got "
            f"{len(message) - HEADER_BYTES}: the message was cut short, or runs on"
        )
    return header

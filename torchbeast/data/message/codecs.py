"""What makes a payload smaller on its way."""

from __future__ import annotations

import importlib.util
import zlib
from typing import Any

from torchbeast.data.message.header import MessageError

NUMBERS = {"none": 0, "zlib": 1, "lz4": 2}  # in headers: give none of them a new meaning
LARGEST = 0x7E000000  # bytes that lz4 takes at once


def installed() -> list[str]:
    """Returns the codecs that work here; ``none`` and ``zlib`` do everywhere."""
    lz4 = importlib.util.find_spec("lz4") is not None
    return [name for name in NUMBERS if name != "lz4" or lz4]


def check_codec(codec: str) -> None:
    """Raises ValueError unless there is such a codec and it is installed."""
    if codec not in NUMBERS:
        raise ValueError(f"expected a codec of {', '.join(NUMBERS)}, got {codec!r}")
    if codec not in installed():
        raise ValueError(
            f"expected the package {codec}, which is not installed here; run "
            f'`pip install "torchbeast[ray]"`, or choose another codec'
        )


def compress(codec: str, raw: Any) -> Any:
    """Returns ``raw`` bytes compressed; with ``none`` as they are."""
    if codec == "lz4":
        import lz4.block

        return lz4.block.compress(raw, store_size=False)
    return zlib.compress(raw, 1) if codec == "zlib" else raw


def decompress(number: int, payload: memoryview, num_bytes: int) -> Any:
    """Returns the ``num_bytes`` that a payload holds; never makes more of it.

    Raises:
        MessageError: it holds something else, or its codec is not here.
    """
    codec = {n: name for name, n in NUMBERS.items()}.get(number)
    if codec is None:
        raise MessageError(
            f"expected a codec of {NUMBERS}, got number {number}: the sender runs another version "
            f"of TorchBeast; install the same on all machines"
        )
    try:
        check_codec(codec)
    except ValueError as error:
        raise MessageError(f"{error} (of the sender)") from error
    raw = _decompressed(codec, payload, num_bytes)
    if len(raw) != num_bytes:
        raise MessageError(f"expected {num_bytes} bytes from {codec}, got {len(raw)}")
    return raw


def _decompressed(codec: str, payload: memoryview, num_bytes: int) -> Any:
    if codec == "none":
        return payload
    if codec == "zlib":
        stream = zlib.decompressobj()
        try:
            raw = stream.decompress(payload, num_bytes + 1)  # one too many shows that more follow
        except zlib.error as error:
            raise MessageError(f"expected bytes that zlib decompresses, got {error}") from error
        if not stream.eof or stream.unused_data:
            raise MessageError(f"expected the {num_bytes} bytes of zlib to end with the message")
        return raw
    import lz4.block

    try:
        return lz4.block.decompress(payload, uncompressed_size=num_bytes)
    except lz4.block.LZ4BlockError as error:
        raise MessageError(f"expected bytes that lz4 decompresses, got {error}") from error

"""Which codec is the fastest on a link: tried, not guessed."""

from __future__ import annotations

import time
from typing import NamedTuple

from torchbeast.data.message.codecs import installed
from torchbeast.data.message.format import RolloutFormat
from torchbeast.data.message.header import Stamp
from torchbeast.data.slots import Slot


class Cost(NamedTuple):
    """What one rollout costs with a codec."""

    num_bytes: int  # of the message
    pack_s: float
    unpack_s: float

    def seconds(self, bytes_per_second: float) -> float:
        """Returns the seconds from slot to slot over a link."""
        return self.num_bytes / bytes_per_second + self.pack_s + self.unpack_s


def choose_codec(
    bytes_per_second: float,
    format: RolloutFormat,
    slot: Slot,
    into: Slot,
    seconds: float = 1.0,
) -> str:
    """Returns the codec with which ``slot`` gets over a link of ``bytes_per_second`` the soonest.

    Args:
        bytes_per_second: of the link, for this sender.
        format: packs and unpacks.
        slot: a real rollout: others compress otherwise.
        into: another slot of the same spec, which is overwritten.
        seconds: how long to try, all codecs together; each is tried once at least.
    """
    return cheapest(measure_codecs(format, slot, into, seconds), bytes_per_second)


def cheapest(costs: dict[str, Cost], bytes_per_second: float) -> str:
    """Returns the codec that takes the least time over a link."""
    return min(costs, key=lambda codec: costs[codec].seconds(bytes_per_second))


def measure_codecs(
    format: RolloutFormat, slot: Slot, into: Slot, seconds: float
) -> dict[str, Cost]:
    """Returns the cost of every installed codec, the least of what ``seconds`` allow to try."""
    codecs = installed()
    return {codec: _measure(codec, format, slot, into, seconds / len(codecs)) for codec in codecs}


def _measure(codec: str, format: RolloutFormat, slot: Slot, into: Slot, seconds: float) -> Cost:
    num_bytes = 0
    packing: list[float] = []
    unpacking: list[float] = []
    end = time.perf_counter() + seconds
    while not packing or time.perf_counter() + packing[-1] + unpacking[-1] < end:
        began = time.perf_counter()
        message = format.pack(slot, Stamp(0, 0, 0), codec)
        packed = time.perf_counter()
        format.unpack(message, into)
        packing.append(packed - began)
        unpacking.append(time.perf_counter() - packed)
        num_bytes = len(message)
    return Cost(num_bytes, min(packing), min(unpacking))

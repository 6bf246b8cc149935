"""The codec that is chosen is the one that is the soonest across."""

from __future__ import annotations

import numpy as np
from data.message.rollouts import fill, make_spec

from torchbeast.data.message import RolloutFormat, Stamp, choose_codec, installed
from torchbeast.data.message.probe import Cost, cheapest, measure_codecs
from torchbeast.data.slots import Slot

T, B = 64, 16


def slots():
    """Returns a slot of bytes that compress well, another one, and their format."""
    spec, _ = make_spec("pixels")
    slot = Slot(spec, T, B)
    fill(slot, np.random.default_rng(0))
    slot.arrays.obs[:] = np.where(slot.arrays.obs < 8, slot.arrays.obs, 0)
    return slot, Slot(spec, T, B), RolloutFormat(spec, T, B)


def test_the_least_sum_of_link_and_work_wins():
    costs = {
        "none": Cost(8_000_000, 0.001, 0.001),
        "lz4": Cost(100_000, 0.003, 0.003),
        "zlib": Cost(80_000, 0.05, 0.02),
    }
    chosen = {speed: cheapest(costs, speed) for speed in (1e5, 1e6, 1e8, 1e9, 1e10)}
    assert chosen == {1e5: "zlib", 1e6: "lz4", 1e8: "lz4", 1e9: "lz4", 1e10: "none"}


def test_what_is_measured_is_a_real_message():
    slot, into, format = slots()
    costs = measure_codecs(format, slot, into, 0.3)
    assert list(costs) == installed()
    for codec, cost in costs.items():
        assert cost.num_bytes == len(format.pack(slot, Stamp(0, 0, 0), codec))
        assert cost.pack_s > 0
        assert cost.unpack_s > 0
    np.testing.assert_array_equal(into.arrays.obs, slot.arrays.obs)
    assert costs["lz4"].num_bytes < costs["none"].num_bytes / 2


def test_a_slow_link_compresses_and_an_endless_one_does_not_wait_for_it():
    slot, into, format = slots()
    assert choose_codec(1e3, format, slot, into, 0.2) != "none"
    fill(slot, np.random.default_rng(0))
    assert choose_codec(1e15, format, slot, into, 0.2) != "zlib"  # which takes 20 times as long

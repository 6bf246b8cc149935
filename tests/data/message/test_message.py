"""A rollout arrives bit for bit, or with a message that says what is wrong."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from data.message.rollouts import KINDS, bits, fill, make_spec, stack_up
from hypothesis import given, settings
from hypothesis import strategies as st

from torchbeast.data import ArraySpec, rollout_spec, tree_leaves, zero_rows
from torchbeast.data.message import Fence, MessageError, RolloutFormat, Stamp, codecs, installed
from torchbeast.data.message.header import (
    HEADER_BYTES,
    MAGIC,
    checksum,
    read_header,
    write_header,
)
from torchbeast.data.slots import Slot
from torchbeast.envs import EnvConfig, make
from torchbeast.loops.actor import Actor

STAMP = Stamp(3, 2**64 - 1, 77)


def make_format(kind, unroll_length=3, batch_size=2):
    spec, stack = make_spec(kind)
    return RolloutFormat(spec, unroll_length, batch_size, stack)


def make_slot(kind, unroll_length=3, batch_size=2, seed=None):
    slot = Slot(make_spec(kind)[0], unroll_length, batch_size)
    if seed is not None:
        fill(slot, np.random.default_rng(seed))
    return slot


@pytest.mark.parametrize("codec", ["none", "zlib", "lz4"])
@pytest.mark.parametrize("shape", [(3, 2), (1, 1), (7, 3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_noise_arrives_bit_for_bit(kind, shape, codec):
    sent, got = make_slot(kind, *shape, seed=0), make_slot(kind, *shape)
    sender, receiver = make_format(kind, *shape), make_format(kind, *shape)
    message = sender.pack(sent, STAMP, codec)
    assert (message.dtype, message.ndim, message.flags.c_contiguous) == (np.uint8, 1, True)
    assert receiver.stamp(message) == STAMP
    assert receiver.unpack(message, got) == STAMP
    assert bits(got) == bits(sent)
    if codec == "none":
        assert not any(np.shares_memory(message, x) for x in tree_leaves(tuple(sent.arrays)))
        before = bits(got)
        fill(sent, np.random.default_rng(1))
        message[:] = 0
        assert bits(got) == before != bits(sent)


@pytest.mark.parametrize("codec", ["none", "zlib", "lz4"])
def test_one_format_packs_many_rollouts_of_many_sizes(codec):
    packed, expected = [], []
    both, got = make_format("stacks", 5, 3), make_slot("stacks", 5, 3)
    for seed, share in enumerate((1.0, 0.0, 0.5, 0.0, 1.0)):
        slot = make_slot("stacks", 5, 3, seed)
        stack_up(slot, np.random.default_rng(seed).random((6, 3)) < share)
        packed.append(both.pack(slot, STAMP._replace(sequence=seed), codec))
        expected.append(bits(slot))
    for seed, message in enumerate(packed):
        assert both.unpack(bytes(message), got).sequence == seed
        assert bits(got) == expected[seed]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_each_frame_goes_once_wherever_stacks_begin(data):
    kind = data.draw(st.sampled_from([kind for kind in KINDS if kind.startswith("stacks")]))
    shape = steps, columns = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 3)))
    flags = data.draw(st.lists(st.booleans(), min_size=columns * steps, max_size=columns * steps))
    begins = np.ones((steps + 1, columns), bool)
    begins[1:] = np.reshape(flags, (steps, columns))
    sent, got = make_slot(kind, *shape, seed=0), make_slot(kind, *shape)
    stack_up(sent, begins)
    both = make_format(kind, *shape)
    message = both.pack(sent, STAMP, "none")
    both.unpack(message, got)
    assert bits(got) == bits(sent)
    obs = sent.arrays.obs
    k, frame = obs.shape[2], obs[0, 0, 0].nbytes
    flag_bytes = -(-begins.size // 8)
    plain = sum(-(-x.nbytes // 8) * 8 for x in tree_leaves(tuple(sent.arrays))[1:])
    whole = begins.sum()  # noise does not go on by chance, but bits may: then fewer go whole
    expected = HEADER_BYTES + plain + begins.size * frame + whole * (k - 1) * frame + flag_bytes
    assert len(message) <= expected if kind == "stacks of bits" else len(message) == expected


def test_a_bit_makes_a_stack_go_whole():
    slot, got, both = make_slot("stacks", seed=0), make_slot("stacks"), make_format("stacks")
    stack_up(slot, np.zeros((4, 2), bool))
    least = len(both.pack(slot, STAMP, "none"))
    slot.arrays.obs[2, 1, 0, 5, 7] ^= 1
    message = both.pack(slot, STAMP, "none")
    assert len(message) == least + slot.arrays.obs[0, 0, 1:].nbytes
    both.unpack(message, got)
    assert bits(got) == bits(slot)


def test_columns_of_a_wider_slot_are_packed_and_filled():
    wide, target = make_slot("stacks", batch_size=5, seed=0), make_slot("stacks", batch_size=4)
    both = make_format("stacks", batch_size=2)
    before = bits(target.columns(slice(2, 4)))
    message = both.pack(wide.columns(slice(1, 3)), STAMP, "lz4")
    both.unpack(message, target.columns(slice(0, 2)))
    assert bits(target.columns(slice(0, 2))) == bits(wide.columns(slice(1, 3)))
    assert bits(target.columns(slice(2, 4))) == before


class Dice:
    """A policy that throws dice: a network's forward pass would take all of the test's time."""

    def __init__(self, num_actions, num_envs):
        self.rng, self.shape = np.random.default_rng(0), (num_envs, num_actions)

    def refresh(self):
        pass

    def answer(self, slot, t):
        if t == 0:
            slot.write_start((), 0)
        logits = self.rng.normal(size=self.shape).astype(np.float32)
        action = self.rng.integers(0, self.shape[1], self.shape[0])
        slot.write_answer(t, [action, logits])
        return action


def test_pong_arrives_bit_for_bit_and_small():
    pytest.importorskip("ale_py")
    env = make(EnvConfig("PongNoFrameskip-v4", {"max_num_frames_per_episode": 100}), 2, 0)
    assert env.spec.frame_stack == 4
    row = zero_rows(env.spec, 1)._replace(extras={"logits": torch.zeros(1, 1, 6)})
    spec = rollout_spec(row)
    slot, got, both = Slot(spec, 20, 2), Slot(spec, 20, 2), RolloutFormat(spec, 20, 2, 4)
    actor, episodes = Actor(env, Dice(6, 2)), 0
    for _ in range(3):
        actor.collect(slot)
        for codec in installed():
            message = both.pack(slot, STAMP, codec)
            both.unpack(message, got)
            assert bits(got) == bits(slot)
            assert codec == "none" or len(message) < 600 * 20 * 2
        episodes += int(slot.arrays.first[1:].sum())
    env.close()
    assert episodes >= 2  # which is where stacks begin anew


# What does not arrive.


@pytest.mark.parametrize("codec", ["none", "zlib", "lz4"])
def test_a_byte_that_flips_anywhere_is_found_and_the_slot_stays(codec):
    slot, got, both = (
        make_slot("stacks", 1, 1),
        make_slot("stacks", 1, 1),
        make_format("stacks", 1, 1),
    )
    message = both.pack(slot, STAMP, codec)  # magic values: they compress
    before = bits(got)
    rng = np.random.default_rng(0)
    for at in range(len(message)):
        damaged = message.copy()
        damaged[at] ^= rng.integers(1, 256)
        with pytest.raises(MessageError, match="expected"):
            both.unpack(damaged, got)
        if at < HEADER_BYTES:
            with pytest.raises(MessageError, match="expected"):
                both.stamp(damaged)
    assert bits(got) == before


@pytest.mark.parametrize("codec", ["none", "zlib", "lz4"])
def test_a_message_cut_short_or_running_on_is_refused(codec):
    slot, both = make_slot("stacks", 1, 1), make_format("stacks", 1, 1)
    message = bytes(both.pack(slot, STAMP, codec))
    for length in range(len(message)):
        with pytest.raises(MessageError, match="cut short"):
            both.unpack(message[:length], slot)
    with pytest.raises(MessageError, match=r"got \d+: the message was cut short, or runs on"):
        both.unpack(message + b"x", slot)


def test_junk_is_refused():
    slot, both = make_slot("stacks", seed=0), make_format("stacks")
    rng = np.random.default_rng(0)
    for _ in range(300):
        with pytest.raises(MessageError, match="begins with"):
            both.unpack(rng.bytes(rng.integers(HEADER_BYTES, 2000)), slot)
    for message, text in [
        (None, "bytes of a rollout, got <class 'NoneType'>"),
        ("rollout", "bytes of a rollout, got <class 'str'>"),
        (np.zeros((4, 4))[:, 1], "bytes of a rollout"),
        (MAGIC + struct.pack("<H", 2) + bytes(100), "format 1, got format 2: the sender"),
        (np.zeros(0, np.uint8), "got 0: it was cut short"),
    ]:
        with pytest.raises(MessageError, match=text):
            both.stamp(message)


def forged(message, payload=None, **changes):
    """Returns a message with right checksums and wrong content, as only an enemy sends it."""
    payload = bytes(message[HEADER_BYTES:]) if payload is None else payload
    header = read_header(memoryview(message))
    sizes = {"payload_bytes": len(payload), "payload_checksum": checksum(payload)}
    return write_header(header._replace(**(sizes | changes))) + payload


FORGED = [
    (dict(raw_bytes=2**63), "at most 1929 bytes.*got 9223372036854775808"),
    (dict(raw_bytes=0), "got 0"),
    (dict(raw_bytes=3033), "in whole frames"),
    (dict(codec=9), "number 9.*install the same"),
    (dict(codec=0), "bytes from none"),
    (dict(codec=1, payload=b"abc"), "zlib decompresses"),
    (dict(codec=1, payload=zlib.compress(bytes(10**6))), "zlib to end with the message"),
    (dict(codec=1, payload=zlib.compress(bytes(100))), "from zlib, got 100"),
    (dict(codec=2, payload=b"\xff" * 5000), "lz4 decompresses"),
    (dict(codec=2, payload=b"\x10a"), "from lz4, got 1|lz4 decompresses"),
]


@pytest.mark.parametrize(("changes", "text"), FORGED, ids=lambda x: str(x)[:40])
def test_right_checksums_do_not_make_a_message_trusted(changes, text):
    slot, got, both = make_slot("stacks"), make_slot("stacks", seed=0), make_format("stacks")
    before = bits(got)
    with pytest.raises(MessageError, match=text):
        both.unpack(forged(both.pack(slot, STAMP, "lz4"), **changes), got)
    assert bits(got) == before


def test_bits_that_lie_about_stacks_are_refused():
    slot, got, both = make_slot("stacks", seed=0), make_slot("stacks"), make_format("stacks")
    stack_up(slot, np.zeros((4, 2), bool))
    before = bits(got)
    for flags in (0b11111111, 0, 0b01100000):
        message = both.pack(slot, STAMP, "none")
        message[-1] = flags
        with pytest.raises(MessageError, match=r"expected 2 whole stacks"):
            both.unpack(forged(message), got)
    assert bits(got) == before


def test_a_decompression_bomb_stays_small():
    slot, both = make_slot("stacks", seed=0), make_format("stacks")
    bomb = forged(both.pack(slot, STAMP, "none"), zlib.compress(bytes(10**7)), codec=1)
    made = []
    stream = zlib.decompressobj

    class Watched:
        def __init__(self):
            self._stream = stream()

        def decompress(self, *args):
            made.append(self._stream.decompress(*args))
            return made[-1]

        def __getattr__(self, name):
            return getattr(self._stream, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zlib, "decompressobj", Watched)
        with pytest.raises(MessageError):
            both.unpack(bomb, slot)
    assert [len(x) for x in made] == [read_header(memoryview(bomb)).raw_bytes + 1]


def test_other_settings_are_refused_and_named():
    message = make_format("stacks", 3, 2).pack(make_slot("stacks", seed=0), STAMP, "lz4")
    spec, stack = make_spec("stacks")
    others = [
        (spec, 4, 2, stack),
        (spec, 3, 1, stack),
        (spec, 3, 2, 1),
        (spec._replace(state=(ArraySpec((1, 2), np.dtype("f4")),)), 3, 2, stack),
        (spec._replace(extras={**spec.extras, "values": spec.reward}), 3, 2, stack),
        (spec._replace(extras={"logitz": spec.extras["logits"]}), 3, 2, stack),
        (spec._replace(reward=ArraySpec((), np.dtype(">f4"))), 3, 2, stack),
    ]
    for other, steps, columns, k in others:
        receiver = RolloutFormat(other, steps, columns, k)
        text = f"expected rollouts of {steps} steps x {columns} env.*got 3 x 2 .*--unroll_length"
        with pytest.raises(MessageError, match=text):
            receiver.stamp(message)
        if other.reward.dtype.isnative:  # torch shows no others
            with pytest.raises(MessageError, match=text):
                receiver.unpack(message, Slot(other, steps, columns))


def test_the_schema_is_the_same_in_every_process():
    # It is compared between machines: no hashes or addresses of a process may be in it.
    assert make_format("tuple").schema == 0x9D0F92F78BD6E231


def test_a_slot_of_another_shape_or_a_stack_that_is_none_is_refused():
    both = make_format("stacks")
    with pytest.raises(ValueError, match="expected a slot of arrays"):
        both.pack(make_slot("stacks", 4), STAMP, "none")
    with pytest.raises(ValueError, match="numbers that fit into a header"):
        both.pack(make_slot("stacks", seed=0), Stamp(-1, 0, 0), "none")
    for kind in ("dict", "vectors"):
        with pytest.raises(ValueError, match="stacks of 4 frames along their first axis"):
            RolloutFormat(make_spec(kind)[0], 3, 2, 4)
    with pytest.raises(ValueError, match="lower --unroll_length or --envs_per_actor"):
        RolloutFormat(make_spec("stacks")[0], 10**5, 10**4, 4)


def test_a_codec_that_is_not_there_is_named(monkeypatch):
    slot, both = make_slot("stacks"), make_format("stacks")
    message = both.pack(slot, STAMP, "lz4")
    with pytest.raises(ValueError, match="expected a codec of none, zlib, lz4, got 'zip'"):
        both.pack(slot, STAMP, "zip")
    monkeypatch.setattr(codecs, "installed", lambda: ["none", "zlib"])
    for take in (lambda: both.pack(slot, STAMP, "lz4"), lambda: both.unpack(message, slot)):
        with pytest.raises(ValueError, match=r"package lz4.*torchbeast\[ray\]"):
            take()


def test_the_fence_hears_the_newest_incarnation_in_order():
    fence = Fence()
    assert not fence.admits(Stamp(0, 0, 0))
    fence.expect(0, 0)
    fence.expect(1, 5)
    admitted = [(0, 0, 0), (1, 5, 0), (0, 0, 1)]
    assert all(fence.admits(Stamp(*stamp)) for stamp in admitted)
    refused = [(0, 0, 1), (0, 0, 0), (0, 0, 3), (1, 4, 1), (1, 6, 1), (2, 0, 0)]
    assert not any(fence.admits(Stamp(*stamp)) for stamp in refused)
    fence.expect(0, 1)
    assert not fence.admits(Stamp(0, 0, 2))
    assert fence.admits(Stamp(0, 1, 0))

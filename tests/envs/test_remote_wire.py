"""The messages of environment servers are those of ``protocol.proto``, and lose nothing."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from torchbeast.data import EnvSpec
from torchbeast.envs import Step

pytest.importorskip("grpc")

from torchbeast.envs import remote
from torchbeast.envs.remote import wire
from torchbeast.envs.remote.frames import Joiner, Splitter
from torchbeast.envs.remote.protobuf import Fields, WireError, array, data, number, packed
from torchbeast.envs.remote.spaces import BOX as BOX_KIND
from torchbeast.envs.remote.spaces import TUPLE as TUPLE_KIND
from torchbeast.envs.remote.spaces import decode_space, encode_space

PROTO = pathlib.Path(remote.__file__).parent / "protocol.proto"


def test_what_only_looks_like_stacks_arrives_as_it_is() -> None:
    rng = np.random.default_rng(0)
    for frame in ((3, 5), (4, 8)):  # of bytes that do and do not make words
        stacks = np.zeros((6, 4, *frame), np.uint8)
        splitter, joiner, most = Splitter(stacks), Joiner(stacks), False
        for _ in range(50):
            stacks = np.concatenate([stacks[:, 1:], rng.integers(0, 255, (6, 1, *frame))], 1)
            stacks = stacks.astype(np.uint8)
            lies = rng.random(6) < 0.2
            stacks[lies, rng.integers(4)] += 1
            newest, whole = splitter.split(stacks)
            most = most or whole.mean() < 0.7
            joined = joiner.join(array(newest), whole, array(stacks[whole]))
            np.testing.assert_array_equal(joined, stacks)
        assert most  # did not go whole, else this would show nothing


BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SPACES = [
    BOX,
    spaces.Box(np.array([0.0, -2.0]), np.array([1.0, 3.0]), dtype=np.float64),
    spaces.Box(0, 255, (4, 8, 8), np.uint8),
    spaces.Box(0, 1, (), bool),
    spaces.Box(-(2**62) - 1, 2**62 + 1, (2,), np.int64),
    spaces.Discrete(5),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 300]),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]),
    spaces.MultiBinary(6),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.Discrete(3), BOX])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_come_back(space: spaces.Space[Any]) -> None:
    again = decode_space(memoryview(b"".join(encode_space(space))))
    assert again == space
    assert again.dtype == space.dtype
    if isinstance(space, spaces.Box):
        assert again.low.tolist() == space.low.tolist()  # == of spaces is only nearly equal
        assert again.high.tolist() == space.high.tolist()


@pytest.mark.parametrize("shape", [[1 << 44], [1 << 63, 4], [1 << 63, 0], [1 << 27, 1 << 27]])
def test_a_space_that_is_too_large_is_not_made(shape: list[int]) -> None:
    box = number(1, BOX_KIND) + data(2, [b"uint8"]) + packed(3, shape)
    box += data(4, [b"\0"]) + data(5, [b"\xff"])
    with pytest.raises(WireError, match="expected a space of at most"):
        decode_space(memoryview(b"".join(box)))
    welcome = number(1, wire.VERSION) + data(2, box) + data(3, encode_space(spaces.Discrete(2)))
    with pytest.raises(WireError, match="expected a space of at most"):
        wire.decode_welcome(b"".join(data(1, welcome)))


def test_all_arrays_of_a_space_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbeast.envs.remote.spaces.MAX_ELEMENTS", 10)
    four = spaces.Box(0, 1, (2, 2))
    decode_space(memoryview(b"".join(encode_space(spaces.Tuple([four] * 2)))))
    with pytest.raises(WireError, match="expected a space of at most 10 numbers"):
        decode_space(memoryview(b"".join(encode_space(spaces.Tuple([four] * 3)))))


def test_spaces_in_spaces_have_a_limit() -> None:
    space: Any = spaces.Discrete(2)
    for _ in range(32):
        space = spaces.Tuple([space])
    message = b"".join(encode_space(space))
    assert decode_space(memoryview(message)) == space
    for _ in range(5000):
        message = b"".join(number(1, TUPLE_KIND) + data(7, [message]))
    with pytest.raises(WireError, match="expected at most 32 spaces in each other"):
        decode_space(memoryview(message))


# Made with Google's implementation from protocol.proto: what other languages send and expect.
HELLO = "0a0a08011020188880808010"
ROWS_SPEC = EnvSpec(spaces.Box(0, 9, (2,), np.uint8), spaces.Discrete(3))
ROWS = "121c0a04010203041210000000000000e03f00000000000000c01a020108"


def test_golden_bytes() -> None:
    assert wire.encode_hello(wire.Hello(1, 32, (1 << 32) + 8)).hex() == HELLO
    assert wire.decode_hello(bytes.fromhex(HELLO)) == (1, 32, (1 << 32) + 8)
    step = Step(
        np.array([[1, 2], [3, 4]], np.uint8),
        np.array([0.5, -2.0]),
        np.array([True, False]),
        np.array([False, False]),
        None,
        np.array([False, True]),
    )
    assert wire.Rows(ROWS_SPEC, 2).encode(step).hex() == ROWS
    again = wire.Rows(ROWS_SPEC, 2).decode(bytes.fromhex(ROWS))
    for a, b in zip(step, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert wire.RESET.hex() == "1200"
    assert wire.Actions(ROWS_SPEC, 1).encode(np.array([2])).hex() == "1a080200000000000000"


def test_the_proto_file_is_what_is_spoken(tmp_path: pathlib.Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    out = tmp_path / "set"
    arguments = [f"-I{PROTO.parent}", f"--descriptor_set_out={out}", PROTO.name]
    assert protoc.main(["protoc", *arguments]) == 0
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        pool.Add(file)
    request, reply = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"torchbeast.{name}"))
        for name in ("Request", "Reply")
    )
    service = pool.FindServiceByName(wire.SERVICE)
    assert [method.name for method in service.methods] == [wire.METHOD]
    theirs: Any = request(hello={"version": 1, "num_envs": 32, "seed": (1 << 32) + 8})
    assert theirs.SerializeToString().hex() == HELLO
    assert request.FromString(wire.RESET) == request(reset={})
    assert request.FromString(wire.DONE) == request(done={})
    assert request.FromString(bytes.fromhex("1a080200000000000000")).actions == b"\2" + bytes(7)
    rows = reply.FromString(bytes.fromhex(ROWS)).rows
    assert reply(rows=rows).SerializeToString().hex() == ROWS
    assert list(rows.flags) == [wire.TERMINATED, wire.REPLACED]
    flags = rows.DESCRIPTOR.enum_types_by_name["Flag"].values_by_name
    assert all(getattr(wire, name) == flags[name].number for name in flags if name != "NONE")
    for space in SPACES:
        spec = EnvSpec(space, spaces.Discrete(2))
        welcome = reply.FromString(wire.encode_welcome(wire.Welcome(1, spec, "Pong", 3, 16)))
        assert not welcome.FindInitializationErrors()
        told = welcome.welcome
        assert (told.name, told.num_servers, told.max_streams) == ("Pong", 3, 16)
        assert wire.decode_welcome(welcome.SerializeToString()) == (1, spec, "Pong", 3, 16)


def test_messages_of_newer_and_broken_peers() -> None:
    known = bytes.fromhex(HELLO)
    newer = b"".join([*data(9, [b"??"]), b"\x51" + bytes(8), b"\x5d" + bytes(4), known])
    assert wire.decode_hello(newer).num_envs == 32  # fields that are not known are passed over
    assert Fields(b"\x0a\x02\x01\x02\x08\x03").numbers(1) == [1, 2, 3]  # packed, and not
    for broken in (known[:-1], b"\x0a", b"\x0a\xff", b"\x0b", b"\xff" * 11):
        with pytest.raises(WireError):
            wire.decode_hello(broken)
    for size in (0, 5):
        message = data(1, [bytes(size)]) + data(2, [bytes(16)]) + data(3, [bytes(2)])
        with pytest.raises(WireError, match=f"expected 4 bytes of arrays, got {size}"):
            wire.Rows(ROWS_SPEC, 2).decode(b"".join(data(2, message)))

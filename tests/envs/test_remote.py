"""Environment servers: what they stream, and whom they let in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from torchbeast import envs
from torchbeast.data import tree_leaves
from torchbeast.envs import EnvConfig, EnvError, VectorEnv
from torchbeast.loops.alternating import in_groups

from ..probes import counting
from .test_contract import PROBES, SOURCES, equal, stream

grpc = pytest.importorskip("grpc")

from torchbeast.envs import remote  # noqa: E402
from torchbeast.envs.remote import (  # noqa: E402
    EnvServer,
    RemoteEnv,
    ServerTLS,
    security,
    wire,
)
from torchbeast.envs.remote.protobuf import WireError  # noqa: E402
from torchbeast.envs.remote.stream import Server, Stream  # noqa: E402

pytestmark = pytest.mark.timeout(60)

COUNTING = EnvConfig(factory=counting)
COUNTING_SPEC = envs.spec(COUNTING)
TOKEN = "0123456789abcdef"


@contextlib.contextmanager
def served(config: EnvConfig, address: str, **options: Any) -> Iterator[EnvServer]:
    def factory(num_envs: int, seed: int) -> VectorEnv:
        return envs.make(config, num_envs, seed, num_threads=1)

    with EnvServer(factory, envs.spec(config), address, **options) as server:
        yield server


@pytest.fixture
def address(tmp_path: pathlib.Path) -> Iterator[str]:
    yield f"unix:{tmp_path}/s"
    assert not list(tmp_path.glob("s*"))  # neither the socket nor the lock


def a_stream(address: str, num_envs: int = 2, version: int = 1) -> Stream:
    hello = wire.Hello(version, num_envs, 0)
    return Stream(Server(address, None, None), hello, 1 << 20)


LOCAL_AND_REMOTE = {
    "atari": (SOURCES["atari"], SOURCES["atari"]),
    "native": (SOURCES["native"], SOURCES["native"]),
    "minigrid": (SOURCES["minigrid"], SOURCES["minigrid"]),
    "processes": (COUNTING, EnvConfig(f"{PROBES}:counting", env_workers=1)),
}


@pytest.mark.parametrize("name", LOCAL_AND_REMOTE)
def test_streams_what_a_local_one_streams(name: str, address: str) -> None:
    local, config = LOCAL_AND_REMOTE[name]
    here = envs.make(local, 2, 7, num_threads=1)
    with served(config, address), contextlib.closing(RemoteEnv(address, 2, 7)) as there:
        assert there.spec == here.spec == remote.ask(address).spec
        rows = stream(there, 60)
        assert equal(rows, stream(here, 60))
        told = there.episodes()
        assert told == here.episodes()
        assert told
        for action in ([0, 99], [0], [0.0, 0.0]):
            with pytest.raises(ValueError, match="expected actions"):
                there.send(np.array(action))
    here.close()
    assert all(x.flags.writeable and x.flags.aligned for x in tree_leaves(rows[-1]))


def test_a_server_says_its_name_and_is_told_the_end(address: str) -> None:
    told: list[bool] = []
    options = {"name": "Counting", "num_servers": 3, "on_done": lambda: told.append(True)}
    with served(COUNTING, address, **options) as server:
        assert remote.ask(address) == (COUNTING_SPEC, "Counting", 3, 16)
        RemoteEnv(address, 2, 0).close()
        assert told == []  # who leaves may come back
        remote.say_done([address])
        assert told == [True]
        with contextlib.closing(RemoteEnv(server.address, 2, 0)) as env:
            assert env.reset().obs.shape == (2, 2)  # whether it ends is not its to decide


def test_one_that_is_away_is_named_and_not_waited_for(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[bool] = []
    with served(COUNTING, address, on_done=lambda: told.append(True)):
        remote.say_done([f"{address}.gone", address], connect_timeout=2.0)
    assert told == [True]
    assert f"{address}.gone was not told" in caplog.text


def test_a_step_may_take_as_long_as_the_run_says(address: str) -> None:
    with served(COUNTING, address):
        config = EnvConfig("Counting", env_servers=(address,))
        env: Any = envs.make(config, 1, 0, step_timeout=300.0)
        assert (env._step_timeout, env._start_timeout) == (300, 300)
        env.close()
    local: Any = envs.make(EnvConfig(f"{PROBES}:counting", env_workers=1), 1, 0, step_timeout=7.0)
    assert local._step_timeout == 7
    local.close()


def test_over_tcp_on_a_free_port() -> None:
    with served(COUNTING, "127.0.0.1:0") as server:
        assert not server.address.endswith(":0")
        env = RemoteEnv(server.address, 3, 0)
        assert env.reset().obs.tolist() == [[0, 0]] * 3
        env.close()


@pytest.mark.parametrize("kind", ["dict", "tuple", "text", "multi"])
def test_trees(kind: str, address: str) -> None:
    config = EnvConfig(factory=counting, env_kwargs={"kind": kind})
    here = envs.make(config, 2, 0)
    with served(config, address), contextlib.closing(RemoteEnv(address, 2, 0)) as there:
        assert there.spec == here.spec
        assert equal(stream(there, 12), stream(here, 12))
        assert type(there.reset().obs) is type(here.reset().obs)


def test_box_actions_arrive_clipped(address: str) -> None:
    config = EnvConfig(f"{PROBES}:bandit", {"low": [-1, 2], "high": [1, 4], "best": [1, 2]})
    with served(config, address), contextlib.closing(RemoteEnv(address, 2, 0)) as env:
        env.reset()
        env.send(np.array([[5.0, 2.0], [0.0, 2.0]]))  # float64, outside
        assert env.recv().reward.tolist() == [0, -1]


def test_two_streams_have_environments_of_their_own(address: str) -> None:
    with served(COUNTING, address):
        a, b = RemoteEnv(address, 2, 0), RemoteEnv(address, 3, 0)
        a.reset()
        a.send(np.zeros(2, np.int64))
        assert b.reset().obs.tolist() == [[0, 0]] * 3
        assert a.recv().obs.tolist() == [[0, 1]] * 2
        a.close()
        b.send(np.zeros(3, np.int64))
        assert b.recv().obs.tolist() == [[0, 1]] * 3
        b.close()


def test_groups_that_take_turns(address: str) -> None:
    with served(COUNTING, address):
        here = in_groups([lambda n, seed: envs.make(COUNTING, n, seed)] * 2, 4, 7)
        there = in_groups([lambda n, seed: RemoteEnv(address, n, seed)] * 2, 4, 7)
        assert equal(stream(there, 20), stream(here, 20))
        assert there.episodes() == here.episodes()
        there.close()


# What lies on the wire.


def test_each_frame_travels_once(address: str) -> None:
    config = EnvConfig("ALE/Breakout-v5", {"max_num_frames_per_episode": 320}, life_loss=True)
    here = envs.make(config, 2, 3, num_threads=1)
    sizes: list[int] = []
    with served(config, address), contextlib.closing(RemoteEnv(address, 2, 3)) as there:
        receive = there._stream.receive  # type: ignore[union-attr]

        def counted(seconds: float) -> bytes:
            message = receive(seconds)
            sizes.append(len(message))
            return message

        there._stream.receive = counted  # type: ignore[method-assign, union-attr]
        rows = stream(there, 150)
        assert equal(rows, stream(here, 150))  # over lost lives and ends of games
    here.close()
    assert any(row[-1].any() for row in rows[1:])
    lost = sum(int((row[-2] == 0).sum()) for row in rows)
    assert lost > 0
    frame, overhead = 84 * 84, 40
    assert min(sizes) < 2 * (frame + 9) + overhead  # 9 bytes are the reward and the flags
    assert sizes[0] > 2 * 5 * frame  # a reset: everything
    assert sum(sizes[1:]) / len(sizes[1:]) < 1.1 * 2 * frame  # not 4 * 2 * frame


def test_versions_must_agree(address: str) -> None:
    with served(COUNTING, address):
        theirs = a_stream(address, version=2)
        with pytest.raises(EnvError, match="version 2 of the client and version 1 of the server"):
            theirs.receive(5)
        theirs.close()
    reply = wire.encode_welcome(wire.Welcome(3, COUNTING_SPEC))
    with pytest.raises(WireError, match="version 1 of the client and version 3 of the server"):
        wire.decode_welcome(reply)


# Limits.


def test_streams_and_environments_are_bounded(address: str) -> None:
    told: list[bool] = []
    options = {"max_streams": 1, "max_envs": 4, "on_done": lambda: told.append(True)}
    with served(COUNTING, address, **options):
        with pytest.raises(EnvError, match=r"at most 4 environments in one stream, got 5"):
            RemoteEnv(address, 5, 0)
        env = RemoteEnv(address, 4, 0)
        with pytest.raises(EnvError, match=r"the server is full: expected at most 1 streams"):
            RemoteEnv(address, 1, 0, connect_timeout=0.5)
        assert remote.ask(address).max_streams == 1  # which takes no place
        remote.say_done([address])
        assert told == [True]
        env.reset()
        env.close()
        RemoteEnv(address, 1, 0).close()  # waits until the place is free


def test_a_full_server_is_not_waited_for(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbeast.envs.remote.stream.FULL_TIMEOUT", 0.3)
    with served(COUNTING, address, max_streams=1):
        env = RemoteEnv(address, 1, 0)
        began = time.monotonic()
        with pytest.raises(EnvError, match="raise --max_streams"):
            RemoteEnv(address, 1, 0, connect_timeout=50)
        assert time.monotonic() - began < 30
        env.close()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"\x1a\x10" + bytes(16), "reset before the first actions"),
        (b"\x1a\x00", "INVALID_ARGUMENT: expected 16 bytes"),
        (b"\x1a\x00\x12\x00\x0b", "INVALID_ARGUMENT: expected a wire type"),
        (b"\x1a\x90\x4e" + bytes(10_000), "RESOURCE_EXHAUSTED"),
    ],
)
def test_senseless_messages_end_the_stream(message: bytes, text: str, address: str) -> None:
    with served(COUNTING, address, max_envs=8):
        raw = a_stream(address)
        raw.receive(5)
        raw.send(message)
        with pytest.raises(EnvError, match=text):
            raw.receive(5)
        raw.close()
        RemoteEnv(address, 1, 0).close()


def test_actions_of_a_stranger_are_checked(address: str) -> None:
    with served(COUNTING, address):
        raw = a_stream(address)
        raw.receive(5)
        for message in (wire.RESET, wire.Actions(COUNTING_SPEC, 2).encode(np.array([0, 7]))):
            raw.send(message)
        raw.receive(5)
        with pytest.raises(EnvError, match="INVALID_ARGUMENT: expected actions"):
            raw.receive(5)
        raw.close()


# Addresses.


@pytest.mark.parametrize("text", ["", "unix:", "localhost", "a:b", "h:70000", f"unix:/{'x' * 200}"])
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="expected an address unix:/path"):
        RemoteEnv(text, 1, 0)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_taken_address(kind: str, address: str) -> None:
    taken = pytest.raises(OSError, match=r"is taken|is alive there")
    with served(COUNTING, address if kind == "unix" else "127.0.0.1:0") as server:
        env = RemoteEnv(server.address, 1, 0)
        with taken, served(COUNTING, server.address):
            pass
        assert env.reset().first.all()  # the first server goes on
        env.close()
        remote.ask(server.address)


def listens(family: socket.AddressFamily, host: str) -> socket.socket:
    listener = socket.socket(family)
    try:
        listener.bind((host, 0))
    except OSError:
        listener.close()
        pytest.skip(f"this machine has no {host}")
    listener.listen()
    return listener


@pytest.mark.parametrize(
    ("family", "host", "ours"),
    [
        (socket.AF_INET, "127.0.0.1", "localhost"),  # of which [::1] is free
        (socket.AF_INET6, "::1", "localhost"),
        (socket.AF_INET6, "::1", "[::]"),
        (socket.AF_INET6, "::1", "0.0.0.0"),  # gRPC listens at [::] for it
    ],
)
def test_an_address_of_which_a_part_is_taken(
    family: socket.AddressFamily, host: str, ours: str, token: pathlib.Path
) -> None:
    with listens(family, host) as taken:
        where = f"{ours}:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match="is alive there"), served(COUNTING, where, token=token):
            pass


def test_a_port_with_connections_of_a_dead_server_is_free() -> None:
    with served(COUNTING, "127.0.0.1:0") as server:
        env = RemoteEnv(server.address, 1, 0)
        server.close()  # its end of the connection waits for a minute
        with served(COUNTING, server.address):
            assert env.reset().first.all()
            env.close()


def test_leftovers_and_strangers_at_a_path(address: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    (tmp_path / "s.lock").touch()  # of a dead server
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with served(COUNTING, address):
        remote.ask(address)
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(OSError, match="is alive there"), served(COUNTING, address):
            pass
        assert path.exists()
    path.unlink()
    with open(tmp_path / "s.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of a server that is just starting
        with pytest.raises(OSError, match="is alive there"), served(COUNTING, address):
            pass
    path.write_text("precious")
    with pytest.raises(OSError, match="got a file"), served(COUNTING, address):
        pass
    assert path.read_text() == "precious"
    path.unlink()


def test_only_the_user_may_connect(address: str, tmp_path: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        with served(COUNTING, address):
            for name in ("s", "s.lock"):
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)


# Tokens and certificates.


@pytest.fixture
def token(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.mark.parametrize("where", ["0.0.0.0:0", "[::]:0", "10.1.2.3:5000", "myhost:5000"])
def test_other_machines_need_a_token(where: str) -> None:
    with pytest.raises(ValueError, match="expected a token"), served(COUNTING, where):
        pass
    assert [security.stays_here(x) for x in ("127.9.9.9:1", "[::1]:1", "localhost:1")] == [True] * 3


def test_nobody_without_the_token_makes_environments(
    address: str, token: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    made = []

    def factory(num_envs: int, seed: int) -> VectorEnv:
        made.append(num_envs)
        return envs.make(COUNTING, num_envs, seed)

    wrong = tmp_path / "wrong"
    wrong.write_text(TOKEN[:-1] + "F")
    with EnvServer(factory, COUNTING_SPEC, address, token=token):
        for file in (None, wrong):
            with pytest.raises(EnvError, match="UNAUTHENTICATED: expected the token"):
                RemoteEnv(address, 1, 0, file)
        assert made == []
        env = RemoteEnv(address, 1, 0, token)
        env.reset()
        env.close()
        assert made == [1]
    wrong.write_text("short")
    for file in (wrong, tmp_path / "none"):
        with pytest.raises(ValueError, match=f"at least 16 .* --env_token .* got {file}"):
            RemoteEnv(address, 1, 0, file)
        with pytest.raises(ValueError, match=f"--token .* got {file}"):
            served(COUNTING, address, token=file).__enter__()


def test_a_server_for_other_machines(token: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(COUNTING, "0.0.0.0:0", token=token) as server:
        env = RemoteEnv(server.address.replace("0.0.0.0", "127.0.0.1"), 1, 0, token)
        assert env.reset().first.all()
        env.close()
    assert "can be read on the network" in caplog.text


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificates")
def test_encrypted(tmp_path: pathlib.Path) -> None:
    for name in ("ours", "other"):
        subprocess.run(
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
            f"-subj /CN=localhost -addext subjectAltName=DNS:localhost "
            f"-keyout {name}.key -out {name}.pem",
            **{"shell": True, "check": True, "cwd": tmp_path, "capture_output": True},
        )
    ours, key, other = (str(tmp_path / name) for name in ("ours.pem", "ours.key", "other.pem"))
    with served(COUNTING, "localhost:0", tls=ServerTLS(ours, key)) as server:
        env = RemoteEnv(server.address, 2, 0, tls=ours)
        assert env.reset().first.all()
        env.close()
        by_number = server.address.replace("localhost", "127.0.0.1")
        for where, root, text in (
            (server.address, other, f"is --env_certificate {other} that of the server"),
            (server.address, None, "if the server encrypts, give --env_certificate"),
            (by_number, ours, "made for the name or number in the address"),
        ):
            with pytest.raises(EnvError, match=f"UNAVAILABLE.*{text}"):
                RemoteEnv(where, 2, 0, tls=root, connect_timeout=0.5)
    with (
        served(COUNTING, "localhost:0") as server,
        pytest.raises(EnvError, match="does the server encrypt"),
    ):
        remote.ask(server.address, tls=ours, connect_timeout=0.5)
    for mine in (ServerTLS(key, key), ServerTLS(ours, other), ServerTLS(f"{ours}.gone", key)):
        with pytest.raises(ValueError, match=f"--certificate .* got {mine.certificate}"):
            served(COUNTING, "localhost:0", tls=mine).__enter__()
    for root in (key, f"{ours}.gone"):
        with pytest.raises(ValueError, match=f"expected --env_certificate .* got {root}"):
            remote.ask("localhost:1", tls=root)

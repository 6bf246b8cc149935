"""Environment servers: what streams survive, and that nothing of them is left."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from processes import workers

from torchbeast import envs
from torchbeast.data import Tree
from torchbeast.envs import EnvConfig, EnvError, Step, VectorEnv

from ..probes import counting, episode_length, fault
from .test_contract import PROBES

grpc = pytest.importorskip("grpc")

from torchbeast.envs.remote import EnvServer, RemoteEnv, server  # noqa: E402
from torchbeast.envs.remote.stream import _options  # noqa: E402

pytestmark = pytest.mark.timeout(60)

SPEC = envs.spec(EnvConfig(factory=counting))
NO_ACTION = np.zeros(2, np.int64)
SERVE = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start jobs that ignore it
sys.modules["google"] = None  # protobuf is not needed
sys.path.insert(0, {str(pathlib.Path(PROBES).parents[1])!r})
from torchbeast import envs
from torchbeast.envs.remote import serve
config = envs.EnvConfig({PROBES + ":counting"!r})
serve(lambda n, seed: envs.make(config, n, seed), envs.spec(config), sys.argv[1])
"""


class Watched(VectorEnv):
    """Counts like CountingEnv, for ever; hangs at step ``hang`` until released."""

    alive = 0
    seeds: tuple[int, ...] = ()
    release = threading.Event()

    def __init__(self, num_envs: int, seed: int, hang: int = -1) -> None:
        super().__init__(SPEC, num_envs)
        self.count, self.hang = 0, hang
        Watched.alive += 1
        Watched.seeds += (seed,)

    def close(self) -> None:
        Watched.alive -= 1

    def _reset(self) -> Tree:
        self.count = 0
        return np.zeros((self.num_envs, 2), np.float32)

    def _send(self, action: Tree) -> None:
        self.count += 1

    def _recv(self) -> Step:
        if self.count == self.hang:
            Watched.release.wait(30)
        none = np.zeros(self.num_envs, bool)
        obs = np.full((self.num_envs, 2), self.count, np.float32)
        return Step(obs, np.ones(self.num_envs), none, none)


@pytest.fixture
def address(tmp_path: pathlib.Path) -> Iterator[str]:
    Watched.alive, Watched.seeds = 0, ()
    Watched.release.clear()
    threads, children = set(threading.enumerate()), set(workers())
    yield f"unix:{tmp_path}/s"
    Watched.release.set()
    soon(lambda: set(threading.enumerate()) <= threads)
    assert Watched.alive == 0
    assert not list(tmp_path.iterdir())
    assert set(workers()) <= children


def soon(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, [t.name for t in threading.enumerate()]
        time.sleep(0.01)


def serving(address: str, **kwargs: Any) -> EnvServer:
    def factory(num_envs: int, seed: int) -> VectorEnv:
        return envs.make(EnvConfig(factory=fault, env_kwargs=kwargs), num_envs, seed)

    return EnvServer(factory, SPEC, address)


@contextlib.contextmanager
def process(address: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SERVE, address]) as started:
        try:
            yield started
        finally:
            started.kill()


def step(env: RemoteEnv) -> Any:
    env.send(NO_ACTION)
    return env.recv()


# Environments that break.


def test_an_environment_that_raises_ends_its_stream_alone(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(address, kind="raise", at_step=3):
        bad, good = RemoteEnv(address, 2, 0), RemoteEnv(address, 2, 0)
        for env in (bad, good):
            env.reset()
        step(good)
        for _ in range(2):
            step(bad)
        with pytest.raises(EnvError, match=r"ABORTED: .*EnvError: fault .*: broken in step"):
            step(bad)
        assert "Traceback" in caplog.text  # in the server's log, whole
        bad.close()
        assert step(good).obs.tolist() == [[0, 2]] * 2
        good.close()


def test_in_the_constructor(address: str) -> None:
    with serving(address, kind="constructor"):
        env = RemoteEnv(address, 2, 0)
        with pytest.raises(EnvError, match="RuntimeError: broken in the constructor"):
            env.reset()
        env.close()


def test_a_reward_that_is_not_finite(address: str) -> None:
    with serving(address, kind="nan", at_step=2):
        env = RemoteEnv(address, 2, 0)
        env.reset()
        step(env)
        with pytest.raises(EnvError, match=r"expected finite rewards .* environment 0 at step 2"):
            step(env)
        env.close()


def test_other_environments_than_announced(address: str) -> None:
    config = EnvConfig("CartPole-v1")
    with EnvServer(lambda n, seed: envs.make(config, n, seed), SPEC, address):
        env = RemoteEnv(address, 2, 0)
        with pytest.raises(EnvError, match="ABORTED: ValueError: expected environments of"):
            env.reset()
        env.close()


def test_a_hung_environment(address: str) -> None:
    with EnvServer(lambda n, seed: Watched(n, seed, 2), SPEC, address) as server:
        env = RemoteEnv(address, 2, 0)
        env.reset()
        step(env)
        assert server.overdue() < 0  # its client is there
        env._step_timeout = 0.4
        began = time.monotonic()
        with pytest.raises(EnvError, match=r"expected an answer from unix:.* within 0.4 s"):
            step(env)
        assert time.monotonic() - began < 30  # not the 60 of before
        env.close()
        soon(lambda: server.overdue() > 0.2)
        Watched.release.set()
        soon(lambda: server.overdue() < 0)


# Peers that come and go.


def test_a_stream_that_ends_closes_its_environments(address: str) -> None:
    with EnvServer(Watched, SPEC, address):
        kept, left = RemoteEnv(address, 2, 0), RemoteEnv(address, 2, 1)
        for env in (kept, left):
            env.reset()
        assert Watched.alive == 2
        left.close()
        left.close()
        soon(lambda: Watched.alive == 1)
        with pytest.raises(EnvError, match="is closed"):
            step(left)
        left_behind = kept
    soon(lambda: Watched.alive == 0)  # the server closed
    left_behind.close()


def test_no_server(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(EnvError, match=r"expected an environment server at unix:.* within 0.3 s"):
        RemoteEnv(address, 2, 0, connect_timeout=0.3)
    with pytest.raises(EnvError, match=r"UNAVAILABLE.*refused"):
        RemoteEnv("127.0.0.1:1", 2, 0, connect_timeout=0.3)
    assert time.monotonic() - began < 30


def test_a_server_that_is_late(address: str) -> None:
    made: list[EnvServer] = []
    timer = threading.Timer(0.5, lambda: made.append(serving(address)))
    timer.start()
    env = RemoteEnv(address, 2, 0, connect_timeout=20)
    assert env.reset().first.all()
    env.close()
    timer.join()
    made[0].close()


def test_a_silent_client_is_dropped(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with EnvServer(Watched, SPEC, address, idle_timeout=0.3):
        env = RemoteEnv(address, 2, 5)
        env.reset()
        step(env)
        soon(lambda: Watched.alive == 0)
        soon(lambda: "said nothing for too long" in caplog.text)
        assert step(env).first.all()  # it comes back later, to new episodes
        assert Watched.seeds[0] == 5
        assert len(set(Watched.seeds)) == len(Watched.seeds) > 1
        env.close()
        soon(lambda: Watched.alive == 0)


def test_a_stream_without_a_word_gives_its_place_back(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HELLO_TIMEOUT", 0.3)
    monkeypatch.setattr(server, "SPARE", 0)
    with EnvServer(Watched, SPEC, address, max_streams=1):
        done = threading.Event()
        with grpc.insecure_channel(address, _options(1000)) as channel:
            call = channel.stream_stream("/torchbeast.Environments/Play")(
                iter(lambda: done.wait(30) or None, True)
            )
            with pytest.raises(grpc.RpcError):
                next(call)
            done.set()
        RemoteEnv(address, 2, 0).close()


def test_what_is_not_grpc_at_all(address: str, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    with EnvServer(Watched, SPEC, address):
        env = RemoteEnv(address, 2, 0)
        env.reset()
        for junk in (
            b"",
            rng.bytes(1 << 20),
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM",
        ):
            with socket.socket(socket.AF_UNIX) as stranger, contextlib.suppress(OSError):
                stranger.connect(str(tmp_path / "s"))
                stranger.sendall(junk)
        assert step(env).obs.tolist() == [[1, 1]] * 2
        env.close()


# Servers that die.


@pytest.mark.timeout(180)  # two processes import torch, one after the other
def test_a_server_killed_and_started_again(
    address: str, caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path
) -> None:
    with process(address) as first:
        env = RemoteEnv(address, 2, 0)
        env.reset()
        rows = [step(env) for _ in range(5)]  # an episode of 3 steps, and a part of the next
        env.send(NO_ACTION)
        first.kill()
    assert (tmp_path / "s").exists()  # left by the dead, in the way of nobody
    with process(address) as second:
        with caplog.at_level(logging.WARNING, "torchbeast"):
            again = env.recv()
        assert env.restarts == 1
        assert "connecting again" in caplog.text
        assert again.first.all()
        assert (again.reward.tolist(), again.discount.tolist()) == ([0, 0], [1, 1])
        assert again.obs.tolist() == [[0, 0]] * 2
        rows += [again, *(step(env) for _ in range(9))]
        second.send_signal(signal.SIGINT)
        assert second.wait(20) == 0
    assert not list(tmp_path.iterdir())  # an interrupted server tidies up
    # The rows and the episodes tell the same: 3 steps; 1 step, lost; 3 steps; 4 steps.
    firsts = [i for i, row in enumerate(rows, 1) if row.first[0]]
    assert firsts == [4, 6, 10, 15]
    lengths = [episode_length(k) for k in (0, 0, 1)]
    told = [(e.length, e.episode_return) for e in env.episodes() if e.env == 0]
    assert told == [(n, n * (n + 1) / 2) for n in lengths]
    assert sum(row.reward[0] for row in rows) == sum(r for _, r in told) + 1
    env.close()


def test_a_server_that_stays_away(address: str) -> None:
    here = EnvServer(Watched, SPEC, address)
    env = RemoteEnv(address, 2, 0, reconnect_timeout=0.5)
    env.reset()
    step(env)
    here.close()
    began = time.monotonic()
    with pytest.raises(EnvError, match=r"expected an environment server at unix:"):
        step(env)
    assert 0.2 < time.monotonic() - began < 30
    with pytest.raises(EnvError, match="cannot go on"):
        env.send(NO_ACTION)
    env.close()


def test_a_server_that_is_another_one_now(address: str) -> None:
    here = EnvServer(Watched, SPEC, address)
    env = RemoteEnv(address, 2, 0)
    env.reset()
    here.close()
    config = EnvConfig("CartPole-v1")
    with EnvServer(lambda n, s: envs.make(config, n, s), envs.spec(config), address):
        with pytest.raises(EnvError, match=r"expected unix:.* to serve .* still, got"):
            step(env)
        env.close()


def test_a_server_that_goes_away_too_often(address: str) -> None:
    env = None
    for time_ in range(3):
        with EnvServer(Watched, SPEC, address):
            env = env or RemoteEnv(address, 2, 0, max_restarts=1)
            if time_ == 0:
                env.reset()
            elif time_ == 1:
                assert step(env).first.all()
            else:
                with pytest.raises(EnvError, match=r"lost unix:.* after 1 lost streams before"):
                    step(env)
    assert env is not None
    env.close()

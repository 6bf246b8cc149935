"""A restored environment goes on bit for bit."""

from __future__ import annotations

import io
from collections import deque
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from torchbeast import envs
from torchbeast.data import tree_leaves
from torchbeast.envs import EnvConfig, VectorEnv
from torchbeast.envs.plain import Decoder, Encoder, NotPlain

from ..probes import CountingEnv, counting
from .test_contract import Row, actions, equal, stream

GAMES = [
    "CartPole-v0",
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "TMaze-v0",
    "MiniGrid-DoorKey-5x5-v0",
]
GAMES += ["MiniGrid-Dynamic-Obstacles-5x5-v0", "BabyAI-GoToRedBall-v0", "FrozenLake-v1"]


class Speaking(CountingEnv):
    def __init__(self) -> None:
        super().__init__()
        self.engine = object()  # nothing plain

    def get_state(self) -> Any:
        return {"at": (self.episode, self.step_count)}

    def set_state(self, state: Any) -> None:
        self.episode, self.step_count = state["at"]


class Silent(CountingEnv):
    def __init__(self) -> None:
        super().__init__()
        self.engine = io.BytesIO()


def through_file(data: Any) -> Any:
    file = io.BytesIO()
    torch.save(data, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def go_on(env: VectorEnv, count: int) -> list[Row]:
    rows = []
    for action in actions(env, count, seed=5):
        env.send(action)
        rows.append([np.array(x) for x in tree_leaves(tuple(env.recv()))])
    return rows


@pytest.mark.parametrize("name", [*GAMES, "counting", "speaking"])
def test_goes_on_exactly(name: str) -> None:
    config = EnvConfig(name)
    if name in ("counting", "speaking"):
        config = EnvConfig(factory={"counting": counting, "speaking": Speaking}[name])
    env, fresh = envs.make(config, 3, 1), envs.make(config, 3, 2)
    stream(env, 33)
    env.episodes()
    snapshot = through_file(env.snapshot())
    fresh.reset()
    fresh.restore(snapshot)
    assert equal(go_on(env, 80), go_on(fresh, 80))
    assert env.episodes() == fresh.episodes()


def test_between_two_episodes() -> None:
    env, fresh = (envs.make(EnvConfig(factory=counting), 1, 1) for _ in range(2))
    assert stream(env, 4)[-1][-2][0] == 0  # the final observation of episode 0
    fresh.reset()
    fresh.restore(through_file(env.snapshot()))
    rows = go_on(fresh, 1)
    assert rows[0][0].tolist() == [[1, 0]]
    assert rows[0][-1].all()


def test_none_when_not_plain() -> None:
    env = envs.make(EnvConfig(factory=Silent), 1, 1)
    env.reset()
    assert env.snapshot() is None
    raw = envs.make(EnvConfig("ALE/Pong-v5", env_backend="gymnasium"), 1, 1)
    raw.reset()
    assert raw.snapshot() is None


def test_other_environments_are_refused() -> None:
    env = envs.make(EnvConfig("CartPole-v1"), 1, 1)
    env.reset()
    snapshot = env.snapshot()
    assert snapshot is not None
    other = envs.make(EnvConfig("Acrobot-v1"), 1, 1)
    with pytest.raises(ValueError, match="expected a snapshot of"):
        other.restore(snapshot)
    with pytest.raises(ValueError, match="expected a snapshot of 2"):
        envs.make(EnvConfig("CartPole-v1"), 2, 1).restore(snapshot)


def test_plain_values() -> None:
    shared = [1, 2.5, None, "x", True]
    generator = np.random.default_rng(3)
    values = {
        "same": (shared, shared, generator, generator),
        ("tuple", 1): deque([np.float32(1.5), np.zeros((2, 0))], maxlen=4),
        3: {4, 5},
        "names": np.array(["ab", "c"]),
    }
    got = Decoder([]).decode(through_file(Encoder([]).encode(values)))
    assert got["same"][0] is got["same"][1]
    assert got["same"][2] is got["same"][3]
    assert got["same"][0] == shared
    assert got["same"][2].random() == generator.random()
    queue = got["tuple", 1]
    assert queue.maxlen == 4
    assert type(queue[0]) is np.float32
    assert queue[1].shape == (2, 0)
    assert got["names"].tolist() == ["ab", "c"]
    assert got[3] == {4, 5}


def test_what_is_not_plain() -> None:
    base = np.zeros(4)
    for value in (object(), io.BytesIO(), [base, base[1:]], np.array([None]), {"a"}, gymnasium):
        with pytest.raises(NotPlain):
            Encoder([]).encode(value)


def test_a_snapshot_makes_no_foreign_objects() -> None:
    for name in ("os:_Environ", "subprocess:Popen", "builtins:eval", "io:BytesIO"):
        bad = {"#": "object", "class": name, "state": []}
        with pytest.raises(ValueError, match="expected a class"):
            Decoder([CountingEnv()]).decode(bad)

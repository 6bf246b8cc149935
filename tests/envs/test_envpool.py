"""envpool: its suites through the contract.

These tests run where envpool can be imported: it is an extra of its own, which the extra ``dev``
leaves out because its assets take 740 MB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from torchbeast import envs
from torchbeast.data import array_specs
from torchbeast.data.spec import tree_map_specs
from torchbeast.envs import EnvConfig, UnknownEnvironment

from .test_contract import equal, stream

pytest.importorskip("envpool")

LIMIT = {"max_episode_steps": 25}
NAMES = ["CartPole-v1", "Pendulum-v1", "LunarLanderContinuous-v3", "HalfCheetah-v5"]
NAMES += ["CheetahRun-v1", "HopperHop-v1", "FrozenLake-v1", "MiniGrid-Empty-5x5-v0", "Pong-v5"]


def config(name: str) -> EnvConfig:
    return EnvConfig(name, dict(LIMIT), env_backend="envpool")


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    env, again = (envs.make(config(name), 3, 7, num_threads=n) for n in (1, 2))
    said: list[Any] = []  # as leaves lie: in the order of keys
    tree_map_specs(said.append, array_specs(env.spec.observation))
    rows = stream(env, 80)
    came = [(x.shape[1:], x.dtype) for x in rows[0][:-3]]
    assert came == said
    assert equal(rows, stream(again, 80))
    reward, discount, first = (np.stack([row[i] for row in rows]) for i in (-3, -2, -1))
    assert first[1:].any()
    assert (reward[first] == 0).all()
    assert (discount[first] == 1).all()
    episodes = [e for e in env.episodes() if e.env == 0]
    starts = np.flatnonzero(first[:, 0])
    for episode, begin, end in zip(episodes, starts, starts[1:], strict=False):
        assert episode.length == end - begin - 1
        assert episode.truncated == bool(discount[end - 1, 0])  # a time limit is not terminal
        assert episode.episode_return == pytest.approx(reward[begin:end, 0].sum(), abs=1e-3)
    assert env.snapshot() is None
    env.close()
    again.close()


def test_no_bound_is_infinite() -> None:
    env = envs.make(config("CheetahRun-v1"), 1, 0)
    velocity = env.spec.observation["velocity"]  # type: ignore[index]
    assert np.isneginf(velocity.low).all()
    assert np.isposinf(velocity.high).all()
    env.close()


def test_boxes_are_clipped() -> None:
    bounded, beyond = (envs.make(config("HalfCheetah-v5"), 2, 1) for _ in range(2))
    action = np.random.default_rng(0).normal(0, 2, (2, 6)).astype(np.float32)
    for env, sent in ((bounded, action.clip(-1, 1)), (beyond, action)):
        env.reset()
        env.send(sent)
    assert np.array_equal(bounded.recv().obs, beyond.recv().obs)


def test_atari_by_either_name() -> None:
    env = envs.make(
        EnvConfig("BreakoutNoFrameskip-v4", env_backend="envpool", life_loss=True), 2, 0
    )
    assert env.spec.observation.shape == (4, 84, 84)
    discounts = [row[-2] for row in stream(env, 120)]
    assert np.min(discounts) == 0
    env.close()


def test_what_envpool_has_not() -> None:
    with pytest.raises(UnknownEnvironment, match="HalfCheetah-v5"):
        envs.make(config("HalfChetah-v5"), 1, 0)
    with pytest.raises(UnknownEnvironment, match="env_backend=auto"):
        envs.make(config("MinAtar/Breakout-v1"), 1, 0)
    with pytest.raises(ValueError, match="env_kwargs"):
        envs.make(EnvConfig("CartPole-v1", {"foo": 1}, env_backend="envpool"), 1, 0)
    with pytest.raises(ValueError, match="life_loss"):
        envs.make(EnvConfig("CartPole-v1", life_loss=True, env_backend="envpool"), 1, 0)

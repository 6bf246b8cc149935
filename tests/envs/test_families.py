"""The families of environments, one after the other, through what is promised of all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from torchbeast import envs
from torchbeast.data import tree_leaves
from torchbeast.envs import EnvConfig, VectorEnv

from .test_contract import Row, equal

# Whether their state can be said: Box2D, MuJoCo and ale-py keep it in C.
FAMILIES = {
    "CartPole-v1": True,
    "LunarLander-v3": False,
    "LunarLanderContinuous-v3": False,
    "BipedalWalker-v3": False,
    "CarRacing-v3": False,
    "HalfCheetah-v5": False,
    "Hopper-v5": False,
    "MinAtar/Breakout-v1": True,
    "MinAtar/SpaceInvaders-v1": True,
    "MinAtar/Freeway-v0": True,
    "MiniGrid-Empty-5x5-v0": True,
    "PongNoFrameskip-v4": False,
}
ROWS = {"CarRacing-v3": 25, "HalfCheetah-v5": 1010}  # slow; never terminal
ENDLESS = {"CarRacing-v3", "PongNoFrameskip-v4", "MinAtar/Freeway-v0"}  # in so few rows


def go_on(env: VectorEnv, count: int, seed: int = 0) -> list[Row]:
    env.spec.action.seed(seed)
    rows = []
    for _ in range(count):
        env.send(np.array([env.spec.action.sample() for _ in range(env.num_envs)]))
        rows.append([np.array(x) for x in tree_leaves(tuple(env.recv()))])
    return rows


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    env, again = (envs.make(EnvConfig(name), 2, 7, num_threads=n) for n in (1, 2))
    begin = [np.array(x) for x in tree_leaves(tuple(env.reset()))]
    rows = [begin, *go_on(env, ROWS.get(name, 300))]
    again.reset()
    assert equal(rows[1:60], go_on(again, min(59, len(rows) - 1)))

    reward, discount, first = (np.stack([row[i] for row in rows]) for i in (-3, -2, -1))
    assert np.isfinite(reward).all()
    assert (reward[first] == 0).all()
    assert (discount[first] == 1).all()
    assert first[1:].any() == (name not in ENDLESS)
    told = env.episodes()
    for i in range(2):
        starts = np.flatnonzero(first[:, i])
        mine = [e for e in told if e.env == i]
        for episode, (a, b) in zip(mine, itertools.pairwise(starts), strict=False):
            assert episode.length == b - a - 1
            assert episode.episode_return == pytest.approx(reward[a:b, i].sum(), abs=1e-2)
            assert discount[b - 1, i] == episode.truncated  # 0 only where terminal
            assert (discount[a : b - 1, i] == 1).all()
    assert name != "HalfCheetah-v5" or all(e.truncated and e.length == 1000 for e in told)

    snapshot = env.snapshot()
    assert (snapshot is not None) == FAMILIES[name]
    if snapshot is not None:
        again.restore(snapshot)
        assert equal(go_on(env, 100, 3), go_on(again, 100, 3))
    env.close()
    again.close()


def test_minatar_draws_large_bytes() -> None:
    env = envs.make(EnvConfig("MinAtar/Breakout-v1"), 1, 0, render=True)
    env.reset()
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((340, 340, 3), np.uint8)
    assert len(np.unique(picture)) > 3
    env.close()


def test_sticky_actions_can_be_turned_off() -> None:
    kwargs = {"sticky_action_prob": 0.0, "difficulty_ramping": False}
    env = envs.make(EnvConfig("MinAtar/Asterix-v1", kwargs), 1, 0)
    game = env._vector.envs[0].unwrapped.game  # type: ignore[attr-defined]
    assert game.sticky_action_prob == 0
    env.close()

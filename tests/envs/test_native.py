"""Native vectors of Gymnasium: the environments of the plain id, all in one call."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.vector import AutoresetMode, VectorEnv

from torchbeast import envs
from torchbeast.envs import EnvConfig
from torchbeast.envs.gym import GymEnv
from torchbeast.envs.native import NativeEnv, steps_together

CARTPOLE = EnvConfig("CartPole-v1")


def test_physics_are_those_of_the_plain_environment() -> None:
    env = envs.make(CARTPOLE, 16, 3)
    assert isinstance(env, NativeEnv)
    plain = [gymnasium.make("CartPole-v1") for _ in range(16)]
    for one in plain:
        one.reset(seed=0)
    arrival = env.reset()
    state = env._vector.state  # type: ignore[attr-defined]
    tape = np.random.default_rng(5).integers(0, 2, (200, 16))
    began, ended = np.ones(16, bool), 0
    for action in tape:
        for i in np.flatnonzero(began):  # the plain ones begin where the native ones did
            plain[i].reset()
            plain[i].unwrapped.state = state[:, i].copy()  # type: ignore[attr-defined]
        env.send(action)
        arrival = env.recv()
        state = env._vector.state  # type: ignore[attr-defined]
        for i in np.flatnonzero(~arrival.first):
            obs, reward, terminated, truncated, _ = plain[i].step(action[i])
            assert np.allclose(obs, arrival.obs[i], atol=1e-6)
            assert (reward, 1 - terminated) == (arrival.reward[i], arrival.discount[i])
            ended += terminated
            assert not truncated
        began = arrival.first
        assert (np.abs(arrival.obs[began]) <= 0.05).all()
        assert (arrival.reward[began] == 0).all()
    assert ended > 50
    assert env.spec == envs.spec(dataclasses.replace(CARTPOLE, env_backend="gymnasium"))


@pytest.mark.parametrize(("name", "limit"), [("CartPole-v1", 500), ("CartPole-v0", 200)])
def test_time_limit(name: str, limit: int) -> None:
    env = envs.make(EnvConfig(name), 2, 0)
    assert isinstance(env, NativeEnv)
    obs = env.reset().obs
    arrival = None
    for _ in range(limit + 1):
        # Pushes that keep the pole up.
        env.send((obs @ np.array([0.1, 0.5, 10, 2], np.float32) > 0).astype(np.int64))
        last, arrival = arrival, env.recv()
        obs = arrival.obs
    assert last is not None
    assert last.discount.tolist() == [1, 1]
    assert last.reward.tolist() == [1, 1]
    assert arrival is not None
    assert arrival.first.all()
    episodes = [(e.episode_return, e.length, e.truncated) for e in env.episodes()]
    assert episodes == [(limit, limit, True)] * 2


def test_what_asks_for_the_plain_environment() -> None:
    for changes in (
        {"env_backend": "gymnasium"},
        {"env_kwargs": {"sutton_barto_reward": True}},
    ):
        env = envs.make(dataclasses.replace(CARTPOLE, **changes), 1, 0)  # type: ignore[arg-type]
        assert isinstance(env, GymEnv)
    assert isinstance(envs.make(CARTPOLE, 1, 0, render=True), GymEnv)


class SameStep(VectorEnv[Any, Any, Any]):
    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012


def test_which_vectors_keep_the_contract() -> None:
    def entry(name: str) -> bool:
        return steps_together(Registered("Some-v0", vector_entry_point=name))

    assert steps_together(gymnasium.spec("CartPole-v1"))
    assert not steps_together(gymnasium.spec("Acrobot-v1"))
    assert not entry("gymnasium.envs.phys2d.cartpole:CartPoleJaxVectorEnv")
    assert not entry(f"{__name__}:SameStep")

"""Presets fit what they are for: D4PG's atoms span the returns of the robots."""

from __future__ import annotations

import gymnasium
import pytest

from torchbeast.commands.flags import train_config

ROBOTS = ["Reacher", "Pusher", "Swimmer", "Hopper", "HumanoidStandup", "InvertedPendulum"]


@pytest.mark.parametrize("name", [*(f"{robot}-v5" for robot in ROBOTS), "Pendulum-v1"])
def test_returns_of_chance_fit_between_the_atoms(name: str) -> None:
    config = train_config("d4pg", "test", ["--env", name])
    assert config is not None
    c = config.algorithm
    env = gymnasium.make(name)
    env.reset(seed=0)
    env.action_space.seed(0)
    rewards = []
    for _ in range(600):
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        rewards.append(float(reward))
        if terminated or truncated:
            env.reset()
    # As if it went on for ever at this rate.
    value = sum(rewards) / len(rewards) / (1 - c.discounting)
    assert c.value_min < value < c.value_max
    assert (c.value_max - c.value_min) / (c.num_atoms - 1) < max(1.0, 20 * abs(value))


def test_pictures_get_a_replay_that_fits_and_repeated_actions_more_returns() -> None:
    flags = ["--env", "dm_control/cheetah-run-v0", "--env_kwargs", "pixels=true", "action_repeat=2"]
    config = train_config("d4pg", "test", flags)
    assert config is not None
    assert config.algorithm.replay_size == 100_000
    assert config.algorithm.value_max == 200

"""A2C's tuned settings."""

from __future__ import annotations

from torchbeast.presets.families import (
    ATARI,
    BOX2D,
    CLASSIC,
    MEMORY,
    MINATAR,
    MINIGRID,
    MUJOCO,
    PENDULUM,
    Preset,
    changed,
)
from torchbeast.runners.config import RunConfig


def a2c_atari(config: RunConfig) -> RunConfig:
    """A2C on Atari games."""
    return changed(
        config,
        algorithm=dict(
            batch_size=16, entropy_cost=0.01, baseline_cost=0.25, reward_clipping="abs_one"
        ),
        system=dict(total_steps=10_000_000),
    )


def a2c_classic(config: RunConfig) -> RunConfig:
    """A2C on classic control, and other small observations."""
    return changed(
        config,
        algorithm=dict(batch_size=8, entropy_cost=0.0),
        system=dict(total_steps=500_000),
    )


def a2c_box2d(config: RunConfig) -> RunConfig:
    """A2C on LunarLander and BipedalWalker."""
    return changed(
        config,
        algorithm=dict(
            batch_size=16, discounting=0.995, gae_lambda=0.98, unroll_length=16, entropy_cost=0.001
        ),
        network=dict(normalize_rewards=True),
        system=dict(total_steps=1_000_000),
    )


def a2c_mujoco(config: RunConfig) -> RunConfig:
    """A2C on Pendulum and the robots of MuJoCo."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=8,
            batch_size=16,
            gae_lambda=0.9,
            entropy_cost=0.0,
            learning_rate=0.001,
        ),
        network=dict(normalize_observations=True, normalize_rewards=True),
        system=dict(total_steps=1_000_000),
    )


def a2c_grids(config: RunConfig) -> RunConfig:
    """A2C on MinAtar and MiniGrid."""
    return changed(
        config,
        algorithm=dict(unroll_length=16, batch_size=32, gae_lambda=0.95, learning_rate=0.001),
        system=dict(total_steps=5_000_000),
    )


def a2c_memory(config: RunConfig) -> RunConfig:
    """A2C where something seen early matters late; give it --use_lstm too."""
    # The unroll is as long as the longest gap: gradients do not reach beyond it.
    return changed(
        config,
        algorithm=dict(
            unroll_length=80,
            batch_size=32,
            gae_lambda=0.95,
            entropy_cost=0.02,
            learning_rate=0.002,
            optimizer="adam",
        ),
        system=dict(total_steps=1_000_000),
    )


PRESETS: list[tuple[str, Preset]] = [
    (ATARI, a2c_atari),
    (MEMORY, a2c_memory),
    (CLASSIC, a2c_classic),
    (BOX2D, a2c_box2d),
    (f"{PENDULUM}|{MUJOCO}", a2c_mujoco),
    (f"{MINATAR}|{MINIGRID}", a2c_grids),
]

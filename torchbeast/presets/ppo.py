"""PPO's tuned settings."""

from __future__ import annotations

from torchbeast.presets.families import (
    ATARI,
    BOX2D,
    CARTPOLE,
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


def ppo_atari(config: RunConfig) -> RunConfig:
    """PPO on Atari games."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=128,
            batch_size=8,
            num_minibatches=4,
            num_epochs=4,
            clip_ratio=0.1,
            clip_schedule="linear",
            entropy_cost=0.01,
            learning_rate=0.00025,
            reward_clipping="abs_one",
        ),
        system=dict(total_steps=10_000_000),
    )


def ppo_cartpole(config: RunConfig) -> RunConfig:
    """PPO on CartPole: solved in 100k steps."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=32,
            batch_size=8,
            num_minibatches=1,
            num_epochs=20,
            discounting=0.98,
            gae_lambda=0.8,
            learning_rate=0.001,
            clip_schedule="linear",
        ),
        system=dict(total_steps=100_000),
    )


def ppo_classic(config: RunConfig) -> RunConfig:
    """PPO on classic control."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=256,
            batch_size=16,
            num_minibatches=64,
            num_epochs=4,
            gae_lambda=0.94,
            learning_rate=0.0003,
            learning_rate_schedule="constant",
        ),
        network=dict(normalize_observations=True, normalize_rewards=True),
        system=dict(total_steps=500_000),
    )


def ppo_pendulum(config: RunConfig) -> RunConfig:
    """PPO on Pendulum."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=1024,
            batch_size=4,
            num_minibatches=64,
            num_epochs=10,
            discounting=0.9,
            learning_rate=0.001,
        ),
        system=dict(total_steps=100_000),
    )


def ppo_box2d(config: RunConfig) -> RunConfig:
    """PPO on LunarLander and BipedalWalker."""
    # With unnormalised rewards the lander learns to hover: a landing is worth too little.
    return changed(
        config,
        algorithm=dict(
            unroll_length=256,
            batch_size=16,
            num_minibatches=64,
            num_epochs=6,
            discounting=0.995,
            gae_lambda=0.97,
            entropy_cost=0.01,
            learning_rate=0.0003,
        ),
        network=dict(normalize_observations=True, normalize_rewards=True),
        system=dict(total_steps=1_000_000),
    )


def ppo_mujoco(config: RunConfig) -> RunConfig:
    """PPO on the robots of MuJoCo."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=256,
            batch_size=8,
            num_minibatches=32,
            num_epochs=10,
            learning_rate=0.0003,
        ),
        network=dict(normalize_observations=True, normalize_rewards=True),
        system=dict(total_steps=1_000_000),
    )


def ppo_halfcheetah(config: RunConfig) -> RunConfig:
    """PPO on HalfCheetah, which never falls: short sight, small steps, wide layers."""
    return changed(
        ppo_mujoco(config),
        algorithm=dict(
            batch_size=4,
            num_minibatches=16,
            discounting=0.98,
            gae_lambda=0.92,
            clip_ratio=0.1,
            learning_rate=0.00015,
        ),
        network=dict(hidden_sizes=(256, 256), activation="relu", log_std_init=-2.0),
    )


def ppo_minatar(config: RunConfig) -> RunConfig:
    """PPO on the miniature Atari games of MinAtar."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=128,
            batch_size=64,
            num_minibatches=8,
            num_epochs=4,
            entropy_cost=0.01,
            learning_rate=0.001,
        ),
        system=dict(total_steps=10_000_000),
    )


def ppo_minigrid(config: RunConfig) -> RunConfig:
    """PPO on the grid worlds of MiniGrid."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=128,
            batch_size=16,
            num_minibatches=8,
            num_epochs=4,
            entropy_cost=0.01,
            learning_rate=0.0003,
        ),
        system=dict(total_steps=1_000_000),
    )


def ppo_memory(config: RunConfig) -> RunConfig:
    """PPO where something seen early matters late; give it --use_lstm too."""
    # The unroll is as long as the longest gap: gradients do not reach beyond it.
    return changed(
        config,
        algorithm=dict(
            unroll_length=128,
            batch_size=32,
            num_minibatches=4,
            num_epochs=4,
            entropy_cost=0.02,
            learning_rate=0.001,
        ),
        system=dict(total_steps=1_000_000),
    )


PRESETS: list[tuple[str, Preset]] = [
    (ATARI, ppo_atari),
    (MEMORY, ppo_memory),
    (CARTPOLE, ppo_cartpole),
    (CLASSIC, ppo_classic),
    (PENDULUM, ppo_pendulum),
    (BOX2D, ppo_box2d),
    (r"^HalfCheetah-v\d+$", ppo_halfcheetah),
    (MUJOCO, ppo_mujoco),
    (MINATAR, ppo_minatar),
    (MINIGRID, ppo_minigrid),
]

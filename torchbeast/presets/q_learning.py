"""Tuned settings of DQN and what came of it: double, C51, QR-DQN, IQN, Rainbow, Ape-X."""

from __future__ import annotations

from typing import Any

from torchbeast.presets.families import ATARI, BOX2D, CLASSIC, MINATAR, Preset, changed
from torchbeast.runners.config import RunConfig


def q_atari(config: RunConfig) -> RunConfig:
    """Deep Q-learning on Atari games."""
    return changed(
        config,
        algorithm=_known(
            config,
            reward_clipping="abs_one",
            replay_size=1_000_000,
            min_replay_size=20_000,
            target_interval=8_000,
            exploration_end=0.01,
            exploration_fraction=0.1,
        ),
        system=dict(total_steps=10_000_000),
    )


def q_minatar(config: RunConfig) -> RunConfig:
    """Deep Q-learning on MinAtar."""
    return changed(
        config,
        algorithm=_known(
            config,
            replay_size=100_000,
            min_replay_size=5_000,
            target_interval=4_000,
            learning_rate=0.00025,
            epsilon=0.0003125,
            exploration_end=0.01,
            exploration_fraction=0.05,
            value_min=-10.0,
            value_max=50.0,
        ),
        system=dict(total_steps=5_000_000),
    )


def q_classic(config: RunConfig) -> RunConfig:
    """Deep Q-learning on classic control."""
    return changed(
        config,
        algorithm=_known(
            config,
            batch_size=64,
            replay_size=100_000,
            min_replay_size=1_000,
            replay_ratio=16.0,
            target_interval=500,
            learning_rate=0.001,
            epsilon=1e-8,
            exploration_end=0.04,
            exploration_fraction=0.16,
            value_min=-100.0,
            value_max=100.0,
            num_atoms=101,
            num_quantiles=32,
            num_taus=16,
            num_target_taus=16,
            num_acting_taus=16,
        ),
        network=dict(hidden_sizes=(256, 256), activation="relu"),
        system=dict(total_steps=100_000, num_envs=4),
    )


def q_box2d(config: RunConfig) -> RunConfig:
    """Deep Q-learning on LunarLander."""
    return changed(
        config,
        algorithm=_known(
            config,
            batch_size=128,
            replay_size=200_000,
            min_replay_size=5_000,
            replay_ratio=32.0,
            n_step=3,
            target_interval=1_000,
            learning_rate=0.0005,
            epsilon=1e-8,
            exploration_end=0.05,
            exploration_fraction=0.2,
            value_min=-200.0,
            value_max=300.0,
            num_atoms=101,
            num_quantiles=32,
            num_taus=16,
            num_target_taus=16,
            num_acting_taus=16,
        ),
        network=dict(hidden_sizes=(256, 256), activation="relu"),
        system=dict(total_steps=500_000, num_envs=4),
    )


def _known(config: RunConfig, **settings: Any) -> dict[str, Any]:
    """Returns those of ``settings`` that the algorithm has: only some have atoms or quantiles."""
    return {k: v for k, v in settings.items() if hasattr(config.algorithm, k)}


PRESETS: list[tuple[str, Preset]] = [
    (ATARI, q_atari),
    (MINATAR, q_minatar),
    (CLASSIC, q_classic),
    (BOX2D, q_box2d),
]

"""Tuned settings of DQN and what came of it: double, C51, QR-DQN, IQN, Rainbow, Ape-X."""

from __future__ import annotations

from typing import Any

from torchbeast.presets.families import ATARI, BOX2D, CLASSIC, MINATAR, Preset, changed, known
from torchbeast.runners.config import RunConfig

# Returns of small problems need few quantiles, and atoms over a wide range.
DISTRIBUTION = dict(
    num_atoms=101, num_quantiles=32, num_taus=8, num_target_taus=8, num_acting_taus=8
)


def q_atari(config: RunConfig) -> RunConfig:
    """Deep Q-learning on Atari games."""
    return changed(
        config,
        algorithm=known(
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


def apex_atari(config: RunConfig) -> RunConfig:
    """Ape-X on Atari games; give it actor processes."""
    return changed(
        config,
        algorithm=dict(reward_clipping="abs_one"),
        system=dict(total_steps=50_000_000),
    )


def q_minatar(config: RunConfig) -> RunConfig:
    """Deep Q-learning on MinAtar."""
    return changed(
        config,
        algorithm=known(
            config,
            replay_size=100_000,
            min_replay_size=5_000,
            # Squared errors: what helps most in these games (arXiv:2011.14826, section 5.4).
            huber_kappa=None if config.algo == "dqn" else 1.0,
            target_interval=1_000,
            learning_rate=0.00025,
            epsilon=0.0003125,
            exploration_end=0.01,
            exploration_fraction=0.05,
            value_min=-10.0,
            value_max=90.0,
            num_atoms=101,
        ),
        system=dict(total_steps=5_000_000),
    )


def q_classic(config: RunConfig) -> RunConfig:
    """Deep Q-learning on classic control."""
    return changed(
        config,
        algorithm=known(
            config,
            batch_size=64,
            unroll_length=4,
            replay_size=100_000,
            min_replay_size=1_000,
            # Distributions on atoms learn more from the same transitions.
            replay_ratio=32.0 if config.algo in ("dqn", "qrdqn", "iqn") else 16.0,
            n_step=3,
            double=True,
            target_interval=250,
            learning_rate=0.001 if config.algo == "iqn" else 0.0005,
            learning_rate_schedule="linear",
            epsilon=1e-8,
            exploration_end=0.01,
            exploration_fraction=0.05,
            value_min=-100.0,
            value_max=100.0,
            **DISTRIBUTION,
        ),
        network=_layers(config),
        system=dict(total_steps=100_000, num_envs=4),
    )


def q_box2d(config: RunConfig) -> RunConfig:
    """Deep Q-learning on LunarLander."""
    return changed(
        config,
        algorithm=known(
            config,
            batch_size=128,
            unroll_length=4,
            replay_size=200_000,
            min_replay_size=5_000,
            replay_ratio=16.0,
            n_step=3,
            double=True,
            target_interval=4_000,
            learning_rate=0.0003,
            learning_rate_schedule="linear",
            epsilon=1e-8,
            exploration_end=0.01,
            exploration_fraction=0.1,
            value_min=-200.0,
            value_max=300.0,
            **DISTRIBUTION,
        ),
        network=_layers(config),
        system=dict(total_steps=500_000, num_envs=8),
    )


def _layers(config: RunConfig) -> dict[str, Any]:
    # IQN asks its network for each fraction anew.
    width = 128 if config.algo == "iqn" else 256
    return dict(hidden_sizes=(width, width), activation="relu")


SMALLER: list[tuple[str, Preset]] = [
    (MINATAR, q_minatar),
    (CLASSIC, q_classic),
    (BOX2D, q_box2d),
]
PRESETS: list[tuple[str, Preset]] = [(ATARI, q_atari), *SMALLER]
APEX: list[tuple[str, Preset]] = [(ATARI, apex_atari), *SMALLER]

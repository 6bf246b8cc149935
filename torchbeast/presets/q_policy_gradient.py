"""Tuned settings of DDPG, TD3, SAC, D4PG and discrete SAC."""

from __future__ import annotations

from typing import Any

from torchbeast.presets.families import BOX2D, CLASSIC, DMC, MUJOCO, PENDULUM, Preset, changed
from torchbeast.runners.config import RunConfig

WIDE: dict[str, Any] = dict(hidden_sizes=(256, 256), activation="relu")


def continuous(config: RunConfig) -> RunConfig:
    """Q-function policy gradients where nothing else is known."""
    return changed(config, network=WIDE, system=dict(total_steps=1_000_000))


def continuous_pendulum(config: RunConfig) -> RunConfig:
    """Q-function policy gradients on Pendulum: solved in 20k steps."""
    return changed(
        config,
        algorithm=_known(
            config,
            replay_size=50_000,
            min_replay_size=1_000,
            discounting=0.98,
            learning_rate=0.001,
            num_atoms=101,
            value_min=-500.0,
            value_max=0.0,
        ),
        network=WIDE,
        system=dict(total_steps=20_000, num_envs=4),
    )


def continuous_mujoco(config: RunConfig) -> RunConfig:
    """Q-function policy gradients on the robots of MuJoCo."""
    return changed(
        config,
        algorithm=_known(config, value_min=-100.0, value_max=1000.0),
        network=WIDE,
        system=dict(total_steps=1_000_000),
    )


def continuous_dmc(config: RunConfig) -> RunConfig:
    """Q-function policy gradients on DeepMind Control, whose rewards lie between 0 and 1."""
    return changed(
        config,
        algorithm=_known(config, value_min=0.0, value_max=100.0),
        network=WIDE,
        system=dict(total_steps=1_000_000),
    )


def continuous_box2d(config: RunConfig) -> RunConfig:
    """Q-function policy gradients on BipedalWalker and LunarLanderContinuous."""
    return changed(
        config,
        algorithm=_known(
            config,
            replay_size=300_000,
            min_replay_size=10_000,
            replay_ratio=64.0,
            discounting=0.98,
            target_rate=0.02,
            learning_rate=0.0007,
            layer_norm=True,
            value_min=-150.0,
            value_max=300.0,
        ),
        network=WIDE,
        system=dict(total_steps=500_000, num_envs=16),
    )


def discrete_classic(config: RunConfig) -> RunConfig:
    """Discrete SAC on classic control: small networks, and a policy that may be sure of itself."""
    return changed(
        config,
        algorithm=dict(
            batch_size=64,
            replay_size=100_000,
            min_replay_size=1_000,
            replay_ratio=64.0,
            n_step=3,
            target_rate=0.01,
            learning_rate=0.0007,
            target_entropy=0.2,
        ),
        network=dict(hidden_sizes=(128, 128), activation="relu"),
        system=dict(total_steps=100_000, num_envs=4),
    )


def _known(config: RunConfig, **settings: Any) -> dict[str, Any]:
    """Returns those of ``settings`` that the algorithm has: only D4PG has atoms."""
    return {k: v for k, v in settings.items() if hasattr(config.algorithm, k)}


PRESETS: list[tuple[str, Preset]] = [
    (PENDULUM, continuous_pendulum),
    (MUJOCO, continuous_mujoco),
    (BOX2D, continuous_box2d),
    (DMC, continuous_dmc),
    (r"", continuous),
]
DISCRETE: list[tuple[str, Preset]] = [(CLASSIC, discrete_classic), (r"", continuous)]

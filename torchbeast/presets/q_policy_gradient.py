"""Tuned settings of DDPG, TD3, SAC, D4PG and discrete SAC."""

from __future__ import annotations

from typing import Any

from torchbeast.presets.families import (
    BOX2D,
    CLASSIC,
    DMC,
    MUJOCO,
    PENDULUM,
    Preset,
    changed,
    known,
)
from torchbeast.runners.config import RunConfig

WIDE: dict[str, Any] = dict(hidden_sizes=(256, 256), activation="relu")


# Discounted returns of robots, which D4PG's atoms have to span.
RETURNS = {
    "HumanoidStandup": (0.0, 30_000.0),
    "InvertedPendulum": (0.0, 100.0),
    "Pusher": (-300.0, 0.0),
    "Reacher": (-150.0, 0.0),
    "Swimmer": (-20.0, 60.0),
}


def general(config: RunConfig) -> RunConfig:
    """Policies with critics where nothing else is known."""
    return changed(config, network=WIDE, system=dict(total_steps=1_000_000))


def continuous_pendulum(config: RunConfig) -> RunConfig:
    """Policies with critics on Pendulum: solved in 20k steps."""
    return changed(
        config,
        algorithm=known(
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
    """Policies with critics on the robots of MuJoCo."""
    low, high = RETURNS.get(config.env.env.split("-")[0], (-100.0, 1500.0))
    return changed(
        config,
        algorithm=known(config, num_atoms=101, value_min=low, value_max=high),
        network=WIDE,
        system=dict(total_steps=1_000_000),
    )


def continuous_dmc(config: RunConfig) -> RunConfig:
    """Policies with critics on DeepMind Control; rewards are 0 to 1, for each repeated action."""
    repeat = float(config.env.env_kwargs.get("action_repeat", 1))
    pictures = config.env.env_kwargs.get("pixels", False)
    return changed(
        config,
        algorithm=known(
            config,
            # A stack of colour pictures takes 64 KB.
            replay_size=100_000 if pictures else 1_000_000,
            num_atoms=101,
            value_min=0.0,
            value_max=100.0 * repeat,
        ),
        network=WIDE,
        system=dict(total_steps=1_000_000),
    )


def continuous_box2d(config: RunConfig) -> RunConfig:
    """Policies with critics on BipedalWalker and LunarLanderContinuous."""
    return changed(
        config,
        algorithm=known(
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


PRESETS: list[tuple[str, Preset]] = [
    (PENDULUM, continuous_pendulum),
    (MUJOCO, continuous_mujoco),
    (BOX2D, continuous_box2d),
    (DMC, continuous_dmc),
    (r"", general),
]
DISCRETE: list[tuple[str, Preset]] = [(CLASSIC, discrete_classic), (r"", general)]

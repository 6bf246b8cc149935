"""Tuned settings per family of environments: functions that return a config.

``torchbeast train`` takes the preset that fits the name of the environment, unless ``--preset``
names another (``none`` for the plain defaults). Flags override it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from torchbeast.runners.config import RunConfig


def impala_atari(config: RunConfig) -> RunConfig:
    """IMPALA on Atari games."""
    # Small batches: on few cores many updates learn more than large ones. Traces that decay:
    # with the baseline still wrong, long ones are mostly noise.
    return _with(
        config,
        algorithm={
            "unroll_length": 20,
            "batch_size": 4,
            "learning_rate": 0.0005,
            "entropy_cost": 0.01,
            "vtrace_lambda": 0.95,
            "optimizer": "adam",
            "epsilon": 1e-5,
        },
        system={"total_steps": 6_000_000, "num_envs": 8},
    )


def impala_classic(config: RunConfig) -> RunConfig:
    """IMPALA on classic control and other small observations."""
    return _with(
        config,
        algorithm=dict(
            unroll_length=32,
            batch_size=8,
            learning_rate=0.001,
            entropy_cost=0.01,
            optimizer="adam",
            epsilon=1e-5,
            reward_clipping="none",
        ),
        system=dict(total_steps=500_000, num_envs=8),
    )


def impala_memory(config: RunConfig) -> RunConfig:
    """IMPALA where something seen early matters late; give it --use_lstm too."""
    # The unroll is as long as the longest gap: gradients do not reach beyond it.
    return _with(
        impala_classic(config),
        algorithm={
            "unroll_length": 80,
            "batch_size": 32,
            "learning_rate": 0.002,
            "entropy_cost": 0.05,
        },
        system={"total_steps": 1_000_000, "num_envs": 32},
    )


# Which preset fits which environment: the first pattern that matches its name.
IMPALA: list[tuple[str, Callable[[RunConfig], RunConfig]]] = [
    (r"^ALE/|NoFrameskip-v\d+$", impala_atari),
    (r"^TMaze-|Memory", impala_memory),
    (r"^(CartPole|Acrobot|MountainCar)-v\d+$", impala_classic),
]


def names() -> list[str]:
    """Returns the names of all presets."""
    return [function.__name__ for _, function in IMPALA]


def by_name(name: str) -> Callable[[RunConfig], RunConfig] | None:
    """Returns the preset called ``name``, None if there is none."""
    return next((function for _, function in IMPALA if function.__name__ == name), None)


def for_env(env: str) -> Callable[[RunConfig], RunConfig] | None:
    """Returns the preset that fits the environment ``env``, None if none does."""
    return next((function for pattern, function in IMPALA if re.search(pattern, env)), None)


def _with(config: RunConfig, **groups: dict[str, Any]) -> RunConfig:
    changed = {
        group: dataclasses.replace(getattr(config, group), **settings)
        for group, settings in groups.items()
    }
    return dataclasses.replace(config, **changed)

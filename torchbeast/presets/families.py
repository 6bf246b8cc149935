"""Families of environments, by their names, and how a preset changes a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torchbeast.runners.config import RunConfig

Preset = Callable[[RunConfig], RunConfig]

ATARI = r"^ALE/|NoFrameskip-v\d+$"
MEMORY = r"^TMaze-|Memory"
CLASSIC = r"^(CartPole|Acrobot|MountainCar)-v\d+$"
CARTPOLE = r"^CartPole-v\d+$"
PENDULUM = r"^Pendulum-v\d+$"
BOX2D = r"^(LunarLander|LunarLanderContinuous|BipedalWalker|BipedalWalkerHardcore)-v\d+$"
MUJOCO = (
    r"^(Ant|HalfCheetah|Hopper|Humanoid|HumanoidStandup|InvertedDoublePendulum|InvertedPendulum|"
    r"Pusher|Reacher|Swimmer|Walker2d)-v\d+$"
)
DMC = r"^dm_control/"
MINATAR = r"^MinAtar/"
MINIGRID = r"^(MiniGrid|BabyAI)-"


def changed(config: RunConfig, **groups: dict[str, Any]) -> RunConfig:
    """Returns ``config`` with settings changed, by their groups."""
    new = {
        group: dataclasses.replace(getattr(config, group), **settings)
        for group, settings in groups.items()
    }
    return dataclasses.replace(config, **new)


def known(config: RunConfig, **settings: Any) -> dict[str, Any]:
    """Returns those of ``settings`` that the algorithm has: only some have atoms or quantiles."""
    return {k: v for k, v in settings.items() if hasattr(config.algorithm, k)}

"""Tuned settings per family of environments: functions that return a config.

``torchbeast train`` takes the preset that fits the algorithm and the name of the environment,
unless ``--preset`` names another (``none`` for the plain defaults). Flags override it.
"""

from __future__ import annotations

import re

from torchbeast.presets import a2c, impala, ppo, pqn, q_learning, q_policy_gradient, r2d2
from torchbeast.presets.families import Preset

# Of each algorithm: which preset fits which environment; the first pattern that matches its name.
PRESETS = {
    "a2c": a2c.PRESETS,
    "impala": impala.PRESETS,
    "ppo": ppo.PRESETS,
    "pqn": pqn.PRESETS,
    "r2d2": r2d2.PRESETS,
    "apex": q_learning.APEX,
    "sac_discrete": q_policy_gradient.DISCRETE,
    **dict.fromkeys(["d4pg", "ddpg", "sac", "td3"], q_policy_gradient.PRESETS),
    **dict.fromkeys(["c51", "dqn", "iqn", "qrdqn", "rainbow"], q_learning.PRESETS),
}


def of(algorithm: str) -> dict[str, Preset]:
    """Returns the presets of an algorithm by name."""
    return {function.__name__: function for _, function in PRESETS.get(algorithm, [])}


def for_env(algorithm: str, env: str) -> Preset | None:
    """Returns the preset of an algorithm that fits the environment ``env``, None if none does."""
    fitting = (f for pattern, f in PRESETS.get(algorithm, []) if re.search(pattern, env))
    return next(fitting, None)

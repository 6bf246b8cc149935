"""Environments that cost nothing, to measure what is around them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ID = "Mock"
OBSERVATION = spaces.Box(0, 255, (4, 84, 84), np.uint8)
ACTION: spaces.Space[Any] = spaces.Discrete(6)


class Mock(gymnasium.Env[np.ndarray[Any, Any], Any]):
    """Shows zeros [4, 84, 84] and gives no reward; an episode never ends."""

    observation_space = OBSERVATION
    action_space = ACTION

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """Returns zeros."""
        super().reset(seed=seed)
        return np.zeros(OBSERVATION.shape, np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        """Returns zeros."""
        return np.zeros(OBSERVATION.shape, np.uint8), 0.0, False, False, {}


def register() -> None:
    """Makes ``Mock`` known to Gymnasium."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point="torchbeast.envs.mock:Mock")

"""An environment of your own, in one file: a function that returns a gymnasium.Env.

torchbeast train ppo --env examples/own_env.py:make_env --env_kwargs size=8 --total_steps 200k
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Corridor(gymnasium.Env[np.ndarray, np.int64]):
    """Walk to the right end: reward 1 there, -0.01 for each step; 4 ``size`` steps at most."""

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self.observation_space = spaces.Box(0, 1, (size,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.position = self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the first observation: somewhere in the left half."""
        super().reset(seed=seed)
        self.position = int(self.np_random.integers(self.size // 2))
        self.steps = 0
        return self._obs(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Returns what one step to the left (0) or right (1) brings."""
        self.position = max(0, self.position + (1 if action == 1 else -1))
        self.steps += 1
        arrived = self.position == self.size - 1
        late = self.steps >= 4 * self.size
        return self._obs(), 1.0 if arrived else -0.01, arrived, late and not arrived, {}

    def _obs(self) -> np.ndarray:
        return np.eye(self.size, dtype=np.float32)[self.position]


def make_env(size: int = 8) -> Corridor:
    """Returns one environment; TorchBeast makes as many as it needs."""
    return Corridor(size)

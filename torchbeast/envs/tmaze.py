"""The T-maze: what was seen first decides what is right last."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ID = "TMaze-v0"
FORWARD, LEFT, RIGHT = 0, 1, 2


class TMaze(gymnasium.Env[np.ndarray[Any, Any], Any]):
    """A corridor that ends in a junction; the signal at its start says which way to turn there.

    The observation is (signal -1 or +1 at the start and 0 afterwards, 1 at the junction else 0,
    share of ``length`` walked). Actions: 0 forward, 1 left, 2 right. In the corridor only
    forward moves; at the junction a turn ends the episode with +1 if it is the signal's side
    (left for -1, right for +1) and -1 if not, and forward stays. A model without memory can
    earn 0 on average, one with memory 1. ``time_limit`` steps truncate (None: 4 * length).
    """

    def __init__(self, length: int = 10, time_limit: int | None = None) -> None:
        if length < 1:
            raise ValueError(f"expected a corridor of at least 1 step, got length={length}")
        self.length = length
        self.time_limit = 4 * length if time_limit is None else time_limit
        low = np.array([-1, 0, 0], np.float32)
        self.observation_space = spaces.Box(low, np.ones(3, np.float32))
        self.action_space = spaces.Discrete(3)
        self.signal = 0
        self.position = 0
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """Returns the start of the corridor, where the signal shows."""
        super().reset(seed=seed)
        self.signal = 1 if self.np_random.random() < 0.5 else -1
        self.position = 0
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        """Returns what one move leads to."""
        self.steps += 1
        turned = self.position == self.length and action != FORWARD
        if turned:
            reward = 1.0 if action == (RIGHT if self.signal == 1 else LEFT) else -1.0
        else:
            reward = 0.0
            self.position = min(self.position + (action == FORWARD), self.length)
        return self._observation(), reward, turned, self.steps >= self.time_limit, {}

    def _observation(self) -> np.ndarray[Any, Any]:
        signal = self.signal if self.steps == 0 else 0
        at_junction = self.position == self.length
        return np.array([signal, at_junction, self.position / self.length], np.float32)


def register() -> None:
    """Makes ``TMaze-v0`` known to Gymnasium."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point="torchbeast.envs.tmaze:TMaze")

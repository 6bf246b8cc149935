"""Environments whose streams, values or faults are known: for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class CountingEnv(gymnasium.Env):
    """Counts. The observation is [episode, step], the reward is the step.

    Episode k has ``3 + k % 4`` steps; even episodes terminate, odd ones are truncated.
    """

    def __init__(self, kind: str = "box") -> None:
        self.kind = kind
        box = spaces.Box(-1, 1e6, (2,), np.float32)
        discrete = spaces.Discrete(5)
        self.observation_space = {
            "dict": spaces.Dict({"count": box, "nested": spaces.Dict({"step": discrete})}),
            "tuple": spaces.Tuple((box, discrete)),
            "text": spaces.Dict({"count": box, "words": spaces.Text(9)}),
            "only_text": spaces.Text(9),
        }.get(kind, box)
        self.action_space = spaces.MultiDiscrete([2, 3]) if kind == "multi" else spaces.Discrete(3)
        self.episode = -1
        self.step_count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode += 1
        self.step_count = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.step_count += 1
        ends = self.step_count == episode_length(self.episode)
        even = self.episode % 2 == 0
        return self._obs(), float(self.step_count), ends and even, ends and not even, {}

    def _obs(self) -> Any:
        count = np.array([self.episode, self.step_count], np.float32)
        step = np.int64(self.step_count % 5)
        return {
            "dict": {"count": count, "nested": {"step": step}},
            "tuple": (count, step),
            "text": {"count": count, "words": "hi"},
            "only_text": "hi",
        }.get(self.kind, count)


def episode_length(episode: int) -> int:
    return 3 + episode % 4


class FaultEnv(CountingEnv):
    """Counts until step ``at_step`` of its process's life, then does what ``kind`` says.

    ``marker`` names a file that is made at the fault: where it is, the fault happens no more.
    ``rank``: only on this one of those that torchrun started.
    """

    def __init__(
        self, kind: str = "raise", at_step: int = 5, marker: str = "", rank: int | str = ""
    ) -> None:
        super().__init__()
        self.fault = kind
        self.at_step = at_step if str(rank) in ("", os.environ.get("RANK")) else -1
        self.marker = marker
        self.total = 0
        if kind == "constructor" and os.environ.get("FAULT_PARENT") != str(os.getpid()):
            raise RuntimeError("broken in the constructor")
        if kind == "grandchild":
            self.child = subprocess.Popen(["sleep", "1234.5"])

    def step(self, action: Any) -> Any:
        self.total += 1
        obs, reward, terminated, truncated, info = super().step(action)
        if self.total != self.at_step or (self.marker and os.path.exists(self.marker)):
            return obs, reward, terminated, truncated, info
        if self.marker:
            with open(self.marker, "w"):
                pass
        if self.fault == "raise":
            raise RuntimeError("broken in step")
        if self.fault == "hang":
            time.sleep(1e6)
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "nan":
            reward = float("nan")
        if self.fault == "shape":
            obs = np.zeros(3, np.float32)
        return obs, reward, terminated, truncated, info


LENGTHS = {3: 2, 6: 5, 7: 5}  # of the probes' episodes; 1 for the others


class Probe(gymnasium.Env):
    """The small problems P1 to P9, whose values are known (``value`` of the start, gamma 0.9).

    1: one step, reward 1. 2: the observation is the reward. 3: reward 1 after the second step.
    4: action 1 earns 1 and action 0 earns -1. 5: the action must equal the sign of the
    observation. 6: reward 1, truncated after 5 steps, endless in truth. 7: the same, terminated.
    8: the action is a number in [-1, 3], and the reward falls with its distance from 2.
    9: the reward is 0 or 1, with equal chance. ``box``: any number in [-2, 4] is the one action of
    1, 2, 3, 6, 7 and 9.
    """

    def __init__(self, number: int, box: bool = False) -> None:
        self.number = number
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space: Any = spaces.Discrete(2 if number in (4, 5) else 1)
        if box:
            self.action_space = spaces.Box(-2, 4, (1,), np.float32)
        if number == 8:
            self.action_space = spaces.Box(-1, 3, (1,), np.float32)
        self.sign = 1.0
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        self.sign = 1.0 if self.np_random.random() < 0.5 else -1.0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        ends = self.steps == LENGTHS.get(self.number, 1)
        if self.number == 8:
            assert self.action_space.contains(action), action
            return self._obs(), -(float(action[0] - 2) ** 2), True, False, {}
        right = 1.0 if action == 1 else -1.0
        reward = {
            2: self.sign,
            3: float(ends),
            4: right,
            5: right * self.sign,
            9: (1 + self.sign) / 2,
        }.get(self.number, 1.0)
        truncates = self.number == 6
        return self._obs(), reward, ends and not truncates, ends and truncates, {}

    def _obs(self) -> Any:
        shown = {2: self.sign, 3: float(self.steps), 5: self.sign}.get(self.number, 0.0)
        return np.array([shown], np.float32)


class Bandit(gymnasium.Env):
    """One step, whose reward falls with the square of the distance from the best action.

    The distance is in units in which the bounds are -1 and 1. ``best`` None: the reward is 1
    whatever is done. ``sight``: the observation is 1 or -1, and for -1 the best action lies as far
    from the upper bound as else from the lower one.
    """

    def __init__(
        self, low: list[float], high: list[float], best: list[float] | None, sight: bool = False
    ) -> None:
        self.low, self.high = np.float32(low), np.float32(high)
        self.best = None if best is None else np.float32(best)
        self.sight = sight
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space: Any = spaces.Box(self.low, self.high)
        self.sign = 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if self.sight:
            self.sign = 1.0 if self.np_random.random() < 0.5 else -1.0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        reward = 1.0
        if self.best is not None:
            best = self.best if self.sign > 0 else self.low + self.high - self.best
            reward = -float(np.square((action - best) / (self.high - self.low) * 2).sum())
        return self._obs(), reward, True, False, {}

    def _obs(self) -> Any:
        return np.array([self.sign if self.sight else 0.0], np.float32)


class Regulator(gymnasium.Env):
    """A linear system x' = A x + B u whose reward is -(x Q x + u R u); endless in truth.

    An episode begins anywhere in the unit cube, and is truncated after ``limit`` steps.
    """

    A = np.array([[1.0, 0.5], [0.0, 1.0]])
    B = np.array([[0.0], [1.0]])
    Q = np.diag([1.0, 0.2])
    R = np.array([[0.3]])

    def __init__(self, limit: int = 3) -> None:
        self.limit = limit
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space: Any = spaces.Box(-2.5, 2.5, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        self.x = self.np_random.uniform(-1, 1, 2)
        return self.x.astype(np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.steps += 1
        reward = -float(self.x @ self.Q @ self.x + action @ self.R @ action)
        self.x = self.A @ self.x + self.B @ action
        return self.x.astype(np.float32), reward, False, self.steps == self.limit, {}


class Column(gymnasium.Env):
    """One step; a bright column of a picture, left, amid or right, says the best of -1 .. 1."""

    BEST = (-0.8, 0.0, 0.8)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (1, 24, 24), np.uint8)
        self.action_space: Any = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(3))
        return self.picture(self.place), {}

    def step(self, action: Any) -> Any:
        reward = -float((action[0] - self.BEST[self.place]) ** 2)
        return self.picture(self.place), reward, True, False, {}

    @staticmethod
    def picture(place: int) -> Any:
        """Returns the picture [1, 24, 24] with the column at 0, 1 or 2."""
        picture = np.zeros((1, 24, 24), np.uint8)
        picture[..., 4 + 6 * place : 8 + 6 * place] = 255
        return picture


def counting(**kwargs: Any) -> gymnasium.Env:
    return CountingEnv(**kwargs)


def fault(**kwargs: Any) -> gymnasium.Env:
    return FaultEnv(**kwargs)


def probe(**kwargs: Any) -> gymnasium.Env:
    return Probe(**kwargs)


def bandit(**kwargs: Any) -> gymnasium.Env:
    return Bandit(**kwargs)


def regulator(**kwargs: Any) -> gymnasium.Env:
    return Regulator(**kwargs)


def column() -> gymnasium.Env:
    return Column()


def broken() -> gymnasium.Env:
    return FaultEnv(kind="raise", at_step=40)

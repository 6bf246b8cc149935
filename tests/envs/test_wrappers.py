"""Masks from ``info``; shapes and counting are tested in test_contract and test_actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from torchbeast import envs
from torchbeast.envs import EnvConfig, EnvError


class Masked(gymnasium.Env[Any, Any]):
    """Says its step; allows action number ``step % n``, in ``info``."""

    def __init__(self, kind: str = "dict") -> None:
        self.kind = kind
        step = spaces.Box(0, 99, (1,), np.float32)
        self.observation_space = spaces.Dict({"step": step}) if kind == "dict" else step
        self.action_space = spaces.MultiDiscrete([2, 3]) if kind == "multi" else spaces.Discrete(3)
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self._shown()

    def step(self, action: Any) -> Any:
        self.count += 1
        obs, info = self._shown()
        return obs, 1.0, self.count == 4, False, info

    def _shown(self) -> Any:
        step = np.array([self.count], np.float32)
        obs = {"step": step} if self.kind == "dict" else step
        mask: Any = (np.arange(3) == self.count % 3).astype(np.int8)
        if self.kind == "multi":
            mask = (np.array([1, 0], np.int8), mask)
        if self.kind == "short":
            mask = mask[:2]
        return obs, {} if self.kind == "silent" and self.count == 2 else {"action_mask": mask}


def masked(kind: str) -> Masked:
    return Masked(kind)


def make(kind: str, workers: int = 0) -> envs.VectorEnv:
    config = EnvConfig(
        factory=masked, env_kwargs={"kind": kind}, action_mask="info", env_workers=workers
    )
    return envs.make(config, 2, 0)


@pytest.mark.parametrize(
    ("kind", "workers", "key"),
    [("dict", 0, "step"), ("dict", 1, "step"), ("box", 0, "obs"), ("multi", 0, "obs")],
)
def test_masks_are_observed(kind: str, workers: int, key: str) -> None:
    env = make(kind, workers)
    first = [1, 0] if kind == "multi" else []
    mask = env.spec.observation["action_mask"]  # type: ignore[index]
    assert (mask.shape, mask.dtype) == ((len(first) + 3,), np.int8)
    arrival = env.reset()
    action = np.zeros((2, *(env.spec.action.shape or ())), np.int64)
    for count in (0, 1, 2, 3, 4, 0, 1):  # also the final row and the first have theirs
        assert arrival.obs[key].tolist() == [[count]] * 2
        expected = first + [int(i == count % 3) for i in range(3)]
        assert arrival.obs["action_mask"].tolist() == [expected] * 2
        env.send(action)
        arrival = env.recv()
    env.close()


def test_taxi() -> None:
    env = envs.make(EnvConfig("Taxi-v4", action_mask="info"), 3, 1)
    obs = env.reset().obs
    assert obs["action_mask"].shape == (3, 6)
    for _ in range(220):  # only steps that move something, until the time limit
        env.send(np.argmax(obs["action_mask"] * np.random.default_rng(0).random(6), 1))
        obs = env.recv().obs
    assert all(episode.truncated for episode in env.episodes())
    env.close()


def test_without_a_mask() -> None:
    with pytest.raises(EnvError, match=r"expected info\['action_mask'\].*--action_mask=obs"):
        envs.make(EnvConfig("Acrobot-v1", action_mask="info"), 1, 0).reset()
    env = make("silent")
    env.reset()
    env.send(np.zeros(2, np.int64))
    env.recv()
    env.send(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match="at every reset and step"):
        env.recv()
    with pytest.raises(EnvError, match="of 3 entries"):
        make("short").reset()
    with pytest.raises(ValueError, match=r"Discrete.*--action_mask=info"):
        envs.spec(EnvConfig("Pendulum-v1", action_mask="info"))
    with pytest.raises(ValueError, match=r"--action_mask=info.*env_backend=gymnasium"):
        envs.spec(EnvConfig("ALE/Pong-v5", action_mask="info"))

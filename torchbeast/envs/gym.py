"""Environments written in Python, stepped in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformAction

from torchbeast.data import EnvSpec, Tree, array_specs
from torchbeast.envs import snapshot
from torchbeast.envs.vector import EnvError, Step, VectorEnv


class GymEnv(VectorEnv):
    """B environments of Gymnasium, one after the other in this process.

    Observations of a Dict or Tuple space come as a plain dict or tuple of arrays [B, ...].
    What has no fixed shape in a Dict space, such as MiniGrid's text ``mission``, is dropped.

    Args:
        make_one: makes one environment.
        seeds: one for each environment, so their number is B.
        name: for messages.
    """

    def __init__(
        self, make_one: Callable[[], gymnasium.Env[Any, Any]], seeds: Sequence[int], name: str
    ) -> None:
        self._vector = SyncVectorEnv(
            [lambda: fixed_shape(make_one())] * len(seeds),
            copy=False,  # rows are copied into a slot before the next step
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )
        spec = EnvSpec(self._vector.single_observation_space, self._vector.single_action_space)
        super().__init__(spec, len(seeds), name)
        for env, seed in zip(self._vector.envs, seeds, strict=True):
            env.action_space.seed(seed)
        self._seeds: list[int | None] | None = list(seeds)
        self._action: Tree = None

    def render(self) -> np.ndarray[Any, Any]:
        """Returns the picture [H, W, 3] of environment 0; it must be made with ``render=True``."""
        env = self._vector.envs[0]
        picture = env.render() if env.render_mode == "rgb_array" else None
        if not isinstance(picture, np.ndarray):
            raise ValueError(
                f"expected {self.name} to draw an rgb_array, got render_mode={env.render_mode!r}; "
                f"make it with render=True (a function takes render_mode='rgb_array' then)"
            )
        return picture

    def close(self) -> None:
        """Closes the environments."""
        self._vector.close()

    def _reset(self) -> Tree:
        seeds, self._seeds = self._seeds, None  # a second reset goes on with the same generators
        return self._guard(lambda: self._vector.reset(seed=seeds))[0]

    def _send(self, action: Tree) -> None:
        self._action = action

    def _recv(self) -> Step:
        return Step(*self._guard(lambda: self._vector.step(self._action))[:4])

    def _snapshot(self) -> dict[str, Any] | None:
        return snapshot.capture(self._vector)

    def _restore(self, state: dict[str, Any]) -> None:
        snapshot.restore(self._vector, state)
        self._seeds = None

    def _guard(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            raise EnvError(f"{self.name} raised {type(error).__name__}: {error}") from error


class DropUnsupported(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The environment without the entries of its Dict observations that have no fixed shape."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, spaces.Dict)
        self.observation_space = spaces.Dict(
            {key: sub for key, sub in space.spaces.items() if _has_fixed_shape(sub)}
        )
        self._keys = list(self.observation_space.spaces)

    def observation(self, observation: Any) -> Any:
        """Returns the entries of ``observation`` that are kept."""
        return {key: observation[key] for key in self._keys}


def fixed_shape(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Returns ``env`` with observations of fixed shape and actions that count from 0.

    Entries of a Dict observation that have no fixed shape are left out.

    Raises:
        ValueError: nothing of fixed shape is left.
    """
    space = env.observation_space
    if isinstance(space, spaces.Dict):
        kept = [key for key, sub in space.spaces.items() if _has_fixed_shape(sub)]
        if kept and len(kept) < len(space.spaces):
            env = DropUnsupported(env)
    env = _from_zero(env)
    for each in (env.observation_space, env.action_space):
        try:
            array_specs(each)
        except ValueError:
            env.close()
            raise
    return env


def _from_zero(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    space = env.action_space
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete) or not np.any(space.start):
        return env
    start, dtype = space.start, space.dtype
    counted = (
        spaces.Discrete(int(space.n))
        if isinstance(space, spaces.Discrete)
        else spaces.MultiDiscrete(space.nvec)
    )
    return TransformAction(env, lambda action: (action + start).astype(dtype), counted)


def _has_fixed_shape(space: spaces.Space[Any]) -> bool:
    try:
        array_specs(space)
    except ValueError:
        return False
    return True

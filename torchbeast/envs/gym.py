"""Environments written in Python, stepped in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation

from torchbeast.data import EnvSpec, Tree
from torchbeast.envs import snapshot
from torchbeast.envs.picture import enlarged
from torchbeast.envs.vector import EnvError, Step, VectorEnv
from torchbeast.envs.wrappers import fixed_shape

TINY = 32  # pixels: a picture with a shorter side shows cells rather than a scene


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
        self._vector = Vector(
            [lambda: fixed_shape(make_one())] * len(seeds),
            copy=False,  # rows are copied into a slot before the next step
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )
        spec = spec_of(self._vector.envs[0])
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
        return enlarged(picture) if min(picture.shape[:2]) < TINY else picture

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
        state = snapshot.capture(self._vector.envs)
        return state and state | {"autoreset": self._vector._autoreset_envs.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        snapshot.restore(self._vector.envs, state)
        self._vector._autoreset_envs = np.array(state["autoreset"], bool)
        self._seeds = None

    def _guard(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            raise EnvError(f"{self.name} raised {type(error).__name__}: {error}") from error


class Vector(SyncVectorEnv[Any, Any]):
    """Gymnasium's loop over environments, without the gathering of ``info``, which nobody reads.

    That takes a tenth of the time of MuJoCo, and fails where environments disagree in it.
    """

    def _add_info(
        self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int
    ) -> dict[str, Any]:
        return vector_infos


def spec_of(env: gymnasium.Env[Any, Any]) -> EnvSpec:
    """Returns what an environment shows and takes, and of how many frames it shows stacks."""
    space, inner = env.observation_space, env
    while isinstance(inner, gymnasium.Wrapper) and inner.observation_space is space:
        if isinstance(inner, FrameStackObservation) and isinstance(space, spaces.Box):
            # "zero" pads with the lowest value where 0 is not in the space.
            zero = inner.padding_type == "zero" and bool((space.low <= 0).all())
            known = inner.padding_type == "reset" or zero
            return EnvSpec(space, env.action_space, inner.stack_size if known else 1)
        inner = inner.env
    return EnvSpec(space, env.action_space)

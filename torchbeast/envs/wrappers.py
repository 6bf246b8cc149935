"""What makes one environment of Gymnasium fit: shapes, counting of actions, masks from ``info``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from torchbeast.data import Tree, array_specs
from torchbeast.data.spec import ACTION_MASK as MASK


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
    if _counted(env.action_space) != env.action_space:
        env = FromZero(env)
    for each in (env.observation_space, env.action_space):
        try:
            array_specs(each)
        except ValueError:
            env.close()
            raise
    return env


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


class FromZero(gymnasium.ActionWrapper[Any, Any, Any]):
    """The environment with discrete actions that count from 0."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = _counted(env.action_space)

    def action(self, action: Any) -> Any:
        """Returns the action as the environment counts it."""
        return _shifted(self.env.action_space, action)


class InfoMask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The environment with ``info["action_mask"]`` in its observations, under ``action_mask``.

    A Dict observation gets one more entry; any other one becomes a Dict, itself under ``obs``.
    The mask is flat: n entries for Discrete(n), one for each action of each dimension for
    MultiDiscrete; 1 where the action is allowed.

    Raises:
        ValueError: actions of another kind; or, in a step, ``info`` has no mask of this size.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            raise ValueError(
                f"expected Discrete or MultiDiscrete actions for --action_mask=info, got {space}"
            )
        self._size = int(space.n if isinstance(space, spaces.Discrete) else space.nvec.sum())
        shown = env.observation_space
        self._is_dict = isinstance(shown, spaces.Dict)
        entries = dict(shown.spaces) if isinstance(shown, spaces.Dict) else {"obs": shown}
        self.observation_space = spaces.Dict({**entries, MASK: spaces.MultiBinary(self._size)})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Returns the first observation, with its mask."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(obs, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Returns what the action leads to, with its mask."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(obs, info), reward, terminated, truncated, info

    def _with_mask(self, obs: Any, info: dict[str, Any]) -> dict[str, Any]:
        mask = info.get(MASK)
        if mask is None:
            raise ValueError(
                f"expected info['{MASK}'] at every reset and step, got info with {sorted(info)}; "
                f"--action_mask=obs asks for none"
            )
        # Gymnasium's masks of MultiDiscrete are tuples: one array for each dimension.
        flat = np.concatenate([np.ravel(x) for x in mask]) if isinstance(mask, tuple) else mask
        if np.size(flat) != self._size:
            raise ValueError(
                f"expected info['{MASK}'] of {self._size} entries for {self.env.action_space}, "
                f"got {np.size(flat)}"
            )
        entries = obs if self._is_dict else {"obs": obs}
        return {**entries, MASK: np.asarray(flat, np.int8).reshape(-1)}


def _counted(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Returns ``space`` with all that is discrete in it counted from 0."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _counted(sub) for key, sub in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_counted(sub) for sub in space.spaces])
    if isinstance(space, spaces.Discrete) and space.start:
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.start.any():
        return spaces.MultiDiscrete(space.nvec)
    return space


def _shifted(space: spaces.Space[Any], action: Tree) -> Tree:
    """Returns an action counted from 0 as one of ``space``."""
    if isinstance(space, spaces.Dict):
        return {key: _shifted(sub, action[key]) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_shifted(sub, x) for sub, x in zip(space.spaces, action, strict=True))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return (action + space.start).astype(space.dtype)
    return action


def _has_fixed_shape(space: spaces.Space[Any]) -> bool:
    try:
        array_specs(space)
    except ValueError:
        return False
    return True

"""Action masks: environments that say with each observation which actions are allowed."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from torchbeast.data import EnvSpec, Tree
from torchbeast.data.spec import ACTION_MASK as KEY


def is_masked(spec: EnvSpec) -> bool:
    """Returns whether the observations carry an action mask.

    Raises:
        ValueError: they do, but it does not fit the actions.
    """
    space, action = spec.observation, spec.action
    if not isinstance(space, spaces.Dict) or KEY not in space.spaces:
        return False
    if isinstance(action, spaces.Discrete):
        size = int(action.n)
    elif isinstance(action, spaces.MultiDiscrete) and action.nvec.ndim == 1:
        size = int(action.nvec.sum())
    else:
        raise ValueError(
            f"expected Discrete or one-dimensional MultiDiscrete actions beside the observation "
            f"'{KEY}', got {action}; rename or drop '{KEY}' with an observation wrapper"
        )
    if space[KEY].shape != (size,):
        raise ValueError(
            f"expected '{KEY}' of shape ({size},), a number for each choice of {action}, got "
            f"{space[KEY]}"
        )
    if len(space.spaces) == 1:
        raise ValueError(f"expected observations beside '{KEY}', got {space}")
    return True


def without_mask(spec: EnvSpec) -> EnvSpec:
    """Returns the spec without the mask among its observations."""
    if not is_masked(spec):
        return spec
    assert isinstance(spec.observation, spaces.Dict)
    kept = [(key, sub) for key, sub in spec.observation.spaces.items() if key != KEY]
    return EnvSpec(spaces.Dict(kept), spec.action)  # a list of pairs keeps their order


def split(obs: dict[str, Tree]) -> tuple[dict[str, Tree], Any]:
    """Returns the observations without the mask, and the mask [T, B, A]."""
    return {key: sub for key, sub in obs.items() if key != KEY}, obs[KEY]

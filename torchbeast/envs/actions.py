"""What stands between an answer and the environments: actions are checked, Box actions clipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from torchbeast.data import Tree

Gate = Callable[[Tree], Tree]


def gate(space: spaces.Space[Any], num_envs: int) -> Gate:
    """Returns the function that checks actions [num_envs, ...] and returns what environments take.

    Native sources hang or read past their tables when given a bad action, so each is checked:
    the function raises ValueError for one outside ``space``. Only a Box forgives: its actions
    are clipped to its bounds, for a Gaussian knows none (its log-probability and the rollout
    are of the action as it was drawn). An action that is not finite is an error everywhere.
    """
    # Decided once, for the gate is passed in every step.
    if isinstance(space, spaces.Dict):
        return _dict_gate({key: gate(sub, num_envs) for key, sub in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        gates = [gate(sub, num_envs) for sub in space.spaces]
        return lambda action: tuple(g(part) for g, part in zip(gates, action, strict=True))
    if isinstance(space, spaces.Box):
        return _box_gate(space, (num_envs, *space.shape))
    if isinstance(space, spaces.Discrete):
        low = int(space.start)
        return _discrete_gate(low, low + int(space.n) - 1, (num_envs,))
    assert isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary)
    return _integers_gate(space, (num_envs, *space.shape))


def all_finite(x: np.ndarray[Any, Any]) -> bool:
    """Returns whether no number of ``x`` is infinite or NaN."""
    flat = x.ravel()
    # The product takes a third of the time; it may be infinite because numbers are huge.
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


def _dict_gate(gates: dict[str, Gate]) -> Gate:
    def check(action: Tree) -> Tree:
        if action.keys() != gates.keys():
            raise ValueError(f"expected actions for {sorted(gates)}, got {sorted(action)}")
        return {key: g(action[key]) for key, g in gates.items()}

    return check


def _box_gate(space: spaces.Box, shape: tuple[int, ...]) -> Gate:
    low, high, dtype = space.low, space.high, space.dtype
    bounded = bool(np.isfinite(low).any() or np.isfinite(high).any())

    def check(action: Tree) -> Tree:
        if action.shape != shape or not all_finite(action):
            raise _refusal(action, f"{list(shape)} finite numbers")
        if bounded:
            action = np.clip(action, low, high)
        return action.astype(dtype, copy=False)

    return check


def _discrete_gate(low: int, high: int, shape: tuple[int, ...]) -> Gate:
    def check(action: Tree) -> Tree:
        if action.shape == shape and action.dtype.kind in "iu":
            numbers = action.tolist()  # for the few of a row Python's min is faster than NumPy's
            if low <= min(numbers) and max(numbers) <= high:
                return action
        raise _refusal(action, f"{list(shape)} integers from {low} to {high}")

    return check


def _integers_gate(
    space: spaces.MultiDiscrete | spaces.MultiBinary, shape: tuple[int, ...]
) -> Gate:
    low, high = (
        (space.start, space.start + space.nvec - 1)
        if isinstance(space, spaces.MultiDiscrete)
        else (0, 1)
    )

    def check(action: Tree) -> Tree:
        right = action.shape == shape and action.dtype.kind in "iu"
        if right and bool((action >= low).all() and (action <= high).all()):
            return action
        raise _refusal(action, f"{list(shape)} integers from {low} to {high}")

    return check


def _refusal(action: Tree, expected: str) -> ValueError:
    return ValueError(f"expected actions {expected}, got {np.asarray(action).tolist()}")

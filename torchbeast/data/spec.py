"""Shapes and types: of an environment, and of the rollouts that a model makes in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from torchbeast.data.rollout import ROW_FIELDS, Rollout, Tree, tree_map

# The entry of a Dict observation that says which actions are allowed; 0 where one is forbidden.
ACTION_MASK = "action_mask"


class EnvSpec(NamedTuple):
    """What one environment shows and takes: two Gymnasium spaces, and what is in a picture."""

    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    # Observations are the newest so many frames along the first axis, oldest first; 1: no stack.
    frame_stack: int = 1


class ArraySpec(NamedTuple):
    """Shape and type of one array, without the leading [T+1, B]."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def is_spec(x: object) -> bool:
    """Returns whether ``x`` is a leaf of a tree of ArraySpec."""
    return isinstance(x, ArraySpec)


def array_specs(space: spaces.Space[Any]) -> Tree:
    """Returns the tree of ArraySpec of a space: Dict gives dict, Tuple gives tuple.

    Raises:
        ValueError: the space has no fixed shape (Text, Graph, Sequence).
    """
    if isinstance(space, spaces.Dict):
        return {key: array_specs(sub) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(array_specs(sub) for sub in space.spaces)
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        shape = space.shape
        assert shape is not None
        assert space.dtype is not None
        return ArraySpec(tuple(shape), np.dtype(space.dtype))
    raise ValueError(
        f"expected a space of fixed shape (Box, Discrete, MultiDiscrete, MultiBinary, Dict or "
        f"Tuple of these), got {space}; wrap the environment so that it gives one of them"
    )


def zero_rows(spec: EnvSpec, batch_size: int, num_rows: int = 1) -> Rollout:
    """Returns rows [num_rows, batch_size] of zeros that begin episodes, not yet answered."""

    def zeros(leaf: ArraySpec) -> torch.Tensor:
        return torch.from_numpy(np.zeros((num_rows, batch_size, *leaf.shape), leaf.dtype))

    def like(leaf_spec: Tree) -> Tree:
        return tree_map_specs(zeros, leaf_spec)

    scalar = torch.zeros(num_rows, batch_size)
    return Rollout(
        obs=like(array_specs(spec.observation)),
        reward=scalar,
        discount=torch.ones_like(scalar),
        first=torch.ones_like(scalar, dtype=torch.bool),
        prev_action=like(array_specs(spec.action)),
        action=like(array_specs(spec.action)),
        extras={},
        state=(),
        version=torch.zeros(batch_size, dtype=torch.int64),
    )


def tree_map_specs(function: Any, tree: Tree) -> Tree:
    """Returns ``tree`` with ``function`` applied to each ArraySpec in it."""
    if is_spec(tree):
        return function(tree)
    if isinstance(tree, dict):
        return {key: tree_map_specs(function, sub) for key, sub in tree.items()}
    return tuple(tree_map_specs(function, sub) for sub in tree)


def rollout_spec(answered: Rollout) -> Rollout:
    """Returns a Rollout of ArraySpec from one answered row [1, B] and the state before it."""

    def of(drop: int, x: torch.Tensor) -> ArraySpec:
        return ArraySpec(tuple(x.shape[drop:]), x.detach().cpu().numpy().dtype)

    rows = [tree_map(lambda x: of(2, x), field) for field in answered[:ROW_FIELDS]]
    # A state is [N, B, H]: without B it is [N, H].
    state = tree_map(
        lambda x: ArraySpec((x.shape[0], *x.shape[2:]), x.detach().cpu().numpy().dtype),
        answered.state,
    )
    return Rollout._make([*rows, state, ArraySpec((), np.dtype(np.int64))])

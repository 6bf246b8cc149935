"""Slots of every kind of spec, filled with noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from torchbeast.data import EnvSpec, Rollout, rollout_spec, tree_leaves, zero_rows
from torchbeast.data.slots import Slot

BOX = spaces.Box(-1, 1, (3,), np.float32)
PIXELS = spaces.Box(0, 255, (4, 6, 8), np.uint8)
LSTM = (torch.zeros(2, 1, 7), torch.zeros(2, 1, 7))
EXTRAS = {"logits": torch.zeros(1, 1, 5), "chosen": torch.zeros(1, 1, 2, dtype=torch.bool)}

# Observations, actions, k, extras, state.
KINDS: dict[str, tuple[Any, Any, int, Any, Any]] = {
    "stacks": (PIXELS, spaces.Discrete(5), 4, EXTRAS, ()),
    "stacks of two odd frames": (spaces.Box(0, 255, (2, 3, 5), np.uint8), BOX, 2, {}, LSTM),
    "stacks of numbers": (spaces.Box(-1, 1, (3,), np.float32), BOX, 3, {}, ()),
    "stacks of bits": (spaces.Box(0, 1, (5, 3), bool), spaces.Discrete(2), 5, {}, ()),
    "pixels": (PIXELS, spaces.Discrete(5), 1, EXTRAS, ()),
    "vectors": (BOX, BOX, 1, {}, ()),
    "one number": (spaces.Box(0, 1, (), np.float64), spaces.MultiDiscrete([3, 4]), 1, {}, LSTM),
    "dict": (spaces.Dict({"p": PIXELS, "v": BOX}), spaces.MultiBinary(3), 1, EXTRAS, LSTM),
    "tuple": (
        spaces.Tuple([spaces.Discrete(3), spaces.Dict({"x": BOX, "b": spaces.MultiBinary(9)})]),
        spaces.Dict({"go": BOX, "how": spaces.Discrete(2)}),
        1,
        EXTRAS,
        (),
    ),
}


def make_spec(kind: str) -> tuple[Rollout, int]:
    """Returns the spec and the frame stack of a kind."""
    obs, action, stack, extras, state = KINDS[kind]
    row = zero_rows(EnvSpec(obs, action, stack), 1)
    return rollout_spec(row._replace(extras=extras, state=state)), stack


def fill(slot: Slot, rng: np.random.Generator) -> None:
    """Fills every array with noise; also NaNs come, and what no environment shows."""
    for array in tree_leaves(tuple(slot.arrays)):
        if array.dtype == bool:
            array[...] = rng.integers(0, 2, array.shape)
        else:
            array[...] = np.frombuffer(rng.bytes(array.nbytes), array.dtype).reshape(array.shape)


def stack_up(slot: Slot, breaks: np.ndarray) -> None:
    """Makes each stack go on with the one before, but those where ``breaks`` [T+1, B] are."""
    obs = slot.arrays.obs
    for t in range(1, len(obs)):
        goes_on = ~breaks[t]
        obs[t, goes_on, :-1] = obs[t - 1, goes_on, 1:]


def bits(slot: Slot) -> list[bytes]:
    """Returns the bytes of every array."""
    return [array.tobytes() for array in tree_leaves(tuple(slot.arrays))]

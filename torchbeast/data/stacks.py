"""Stacks of frames in a row: each shows all but its newest frame for the second time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def words(x: Array, axes: int) -> Array:
    """Returns the bits of ``x`` [axes..., words], in place: eight bytes cost what one does."""
    flat = x.reshape(*x.shape[:axes], math.prod(x.shape[axes:])).view(np.uint8)
    return flat if flat.shape[-1] % 8 else flat.view(np.uint64)


def breaks(before: Array, stacks: Array) -> Array:
    """Returns where [...] one of ``stacks`` does not go on with the frames of the one ``before``.

    Both are ``words`` [..., k, words], oldest frame first: what differs in one bit breaks.
    """
    moved: Array = (stacks[..., :-1, :] != before[..., 1:, :]).any((-2, -1))
    return moved

"""Actions in units of their bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from torchbeast.data.spec import array_specs
from torchbeast.nets.encoders import UNBOUNDED, box_units


class ActionUnits(nn.Module):
    """Actions of a bounded Box as vectors [..., D] in which the bounds are -1 and 1, and back.

    Raises:
        ValueError: the space is no Box of floats with two finite bounds everywhere.
    """

    center: Tensor
    half_range: Tensor

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(
                f"expected Box actions of floats, got {space}; use sac_discrete, dqn or ppo for "
                f"discrete actions, ppo for others, or wrap the environment"
            )
        low, high = space.low, space.high
        if not ((low > -UNBOUNDED) & (high < UNBOUNDED) & (low < high)).all():
            raise ValueError(
                f"expected Box actions with a lower and a higher bound each, got {space}; give "
                f"them a bounded space with gymnasium.wrappers.TransformAction, or use ppo"
            )
        center, half_range = box_units(space)
        self.size = center.size
        self.shape, dtype = array_specs(space)
        self.dtype = torch.from_numpy(np.zeros((), dtype)).dtype
        self.register_buffer("center", torch.from_numpy(center).float(), persistent=False)
        self.register_buffer("half_range", torch.from_numpy(half_range).float(), persistent=False)

    def to_env(self, action: Tensor) -> Tensor:
        """Returns actions [..., *shape] of the environment for vectors [..., D]."""
        scaled = torch.addcmul(self.center, action, self.half_range)
        if len(self.shape) != 1:
            scaled = scaled.reshape((*action.shape[:-1], *self.shape))
        return scaled.to(self.dtype)

    def from_env(self, action: Tensor) -> Tensor:
        """Returns vectors [..., D] for actions [..., *shape] of the environment."""
        lead = action.shape[: action.dim() - len(self.shape)]
        flat = action.reshape(*lead, math.prod(self.shape)).float()
        return (flat - self.center) / self.half_range

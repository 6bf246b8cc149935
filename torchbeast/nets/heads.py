"""What comes last: from features to the numbers that make a distribution over actions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from torchbeast.data.spec import array_specs
from torchbeast.nets.encoders import box_units
from torchbeast.ops.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    Joint,
    MultiCategorical,
    Shaped,
)

LOG_STD_RANGE = (-20.0, 2.0)  # of a learned log_std: beyond it lie numbers that overflow


class CategoricalHead(nn.Linear):
    """Logits of one discrete action; [..., F] to [..., A]."""

    def __init__(self, in_features: int, space: spaces.Discrete) -> None:
        super().__init__(in_features, int(space.n))

    def distribution(self, logits: Tensor) -> Distribution:
        """Returns the distribution with logits [..., A]."""
        return Categorical(logits)


class MultiCategoricalHead(nn.Linear):
    """Logits of K discrete actions; [..., F] to [..., sum(nvec)]."""

    def __init__(self, in_features: int, space: spaces.MultiDiscrete) -> None:
        nvec = tuple(int(n) for n in space.nvec.flat)
        super().__init__(in_features, sum(nvec))
        self.nvec = nvec
        self.shape, self.dtype = _shape_and_dtype(space)

    def distribution(self, logits: Tensor) -> Distribution:
        """Returns the distribution with logits [..., sum(nvec)]."""
        return _shaped(MultiCategorical(logits, self.nvec), self.shape, self.dtype, torch.int64)


class BernoulliHead(nn.Linear):
    """Logits of D switches; [..., F] to [..., D]."""

    def __init__(self, in_features: int, space: spaces.MultiBinary) -> None:
        shape, dtype = _shape_and_dtype(space)
        super().__init__(in_features, math.prod(shape))
        self.shape, self.dtype = shape, dtype

    def distribution(self, logits: Tensor) -> Distribution:
        """Returns the distribution with logits [..., D]."""
        return _shaped(Bernoulli(logits), self.shape, self.dtype, torch.int8)


class GaussianHead(nn.Module):
    """Mean and log_std of D real actions, side by side; [..., F] to [..., 2 D].

    They are in units of the environment. Where an action is bounded on both sides, what the
    network gives is in units in which the bounds are -1 and 1, so that any bounds learn alike.
    Samples may lie outside: the environment clips them, and log_prob is that of the sample.

    Args:
        in_features: F.
        space: of the actions.
        state_dependent_std: log_std is a second output, else one number per action.
        log_std_init: log_std at the start.
    """

    center: Tensor
    half_range: Tensor
    log_half_range: Tensor

    def __init__(
        self,
        in_features: int,
        space: spaces.Box,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__()
        if not np.issubdtype(space.dtype, np.floating):
            raise ValueError(
                f"expected Box actions of floats, got {space}; integers are Discrete or "
                f"MultiDiscrete actions: wrap the environment so that it takes them"
            )
        self.shape, _ = _shape_and_dtype(space)
        size = math.prod(self.shape)
        self.mean = nn.Linear(in_features, size)
        self.state_dependent = nn.Linear(in_features, size) if state_dependent_std else None
        self.log_std = None if state_dependent_std else nn.Parameter(torch.zeros(size))
        self.log_std_init = log_std_init
        self.out_features = 2 * size
        center, half_range = box_units(space)
        buffers = {"center": center, "half_range": half_range, "log_half_range": np.log(half_range)}
        for name, value in buffers.items():
            self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns mean and log_std [..., 2 D] of features [..., F]."""
        mean = torch.addcmul(self.center, self.half_range, self.mean(x))
        if self.state_dependent is None:
            assert self.log_std is not None
            log_std = self.log_std + self.log_std_init
        else:
            log_std = (self.state_dependent(x) + self.log_std_init).clamp(*LOG_STD_RANGE)
        return torch.cat([mean, (log_std + self.log_half_range).expand_as(mean)], -1)

    def distribution(self, params: Tensor) -> Distribution:
        """Returns the distribution with mean and log_std [..., 2 D]."""
        gaussian = DiagonalGaussian(*params.chunk(2, -1))
        return _shaped(gaussian, self.shape, params.dtype, params.dtype)


class JointHead(nn.Module):
    """The parameters of all parts of a Dict or Tuple action, side by side; [..., F] to [..., P].

    Args:
        heads: of the parts, in the order of the space.
        keys: the names of the parts; None for a tuple.
    """

    def __init__(self, heads: list[Head], keys: list[str] | None) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.keys = keys
        self.sizes: list[int] = [head.out_features for head in heads]
        self.out_features: int = sum(self.sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns parameters [..., P] of features [..., F]."""
        return torch.cat([head(x) for head in self.heads], -1)

    def distribution(self, params: Tensor) -> Distribution:
        """Returns the distribution with parameters [..., P]."""
        parts = tuple(
            head.distribution(part)  # type: ignore[operator]
            for head, part in zip(self.heads, params.split(self.sizes, -1), strict=True)
        )
        return Joint(parts if self.keys is None else dict(zip(self.keys, parts, strict=True)))


Head = CategoricalHead | MultiCategoricalHead | BernoulliHead | GaussianHead | JointHead


def policy_head(
    in_features: int,
    space: spaces.Space[Any],
    state_dependent_std: bool = False,
    log_std_init: float = 0.0,
) -> Head:
    """Returns the head of an action space: [..., F] -> [..., P], with ``distribution(params)``.

    Raises:
        ValueError: there is no head for this space.
    """

    def head(sub: spaces.Space[Any]) -> Head:
        return policy_head(in_features, sub, state_dependent_std, log_std_init)

    if isinstance(space, spaces.Discrete):
        return CategoricalHead(in_features, space)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategoricalHead(in_features, space)
    if isinstance(space, spaces.MultiBinary):
        return BernoulliHead(in_features, space)
    if isinstance(space, spaces.Box):
        return GaussianHead(in_features, space, state_dependent_std, log_std_init)
    if isinstance(space, spaces.Dict | spaces.Tuple) and len(space.spaces):
        keys = list(space.spaces) if isinstance(space, spaces.Dict) else None
        subs = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return JointHead([head(sub) for sub in subs], keys)
    raise ValueError(
        f"expected actions of Discrete, MultiDiscrete, MultiBinary, Box, or Dict or Tuple of "
        f"these, got {space}; wrap the environment so that it takes one of them"
    )


def _shape_and_dtype(space: spaces.Space[Any]) -> tuple[tuple[int, ...], torch.dtype]:
    shape, dtype = array_specs(space)
    return shape, torch.from_numpy(np.zeros((), dtype)).dtype


def _shaped(
    flat: Distribution, shape: tuple[int, ...], dtype: torch.dtype, own: torch.dtype
) -> Distribution:
    return flat if len(shape) == 1 and dtype == own else Shaped(flat, shape, dtype)

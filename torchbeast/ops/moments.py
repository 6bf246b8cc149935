"""Running mean and variance that several learners keep as one, and what return scaling needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchbeast.ops.scan import accumulate, check_time_major


class Moments(NamedTuple):
    """Mean and population variance [F] of so many samples [], in float64."""

    samples: Tensor
    mean: Tensor
    var: Tensor


def initial_moments(features: int, samples: float = 0.0) -> Moments:
    """Returns mean 0 and variance 1 [F], which weigh as much as that many samples."""
    zeros = torch.zeros(features, dtype=torch.float64)
    return Moments(torch.tensor(samples, dtype=torch.float64), zeros, torch.ones_like(zeros))


def batch_sums(x: Tensor, shift: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns the count and the sums of x - shift and of its square, [1 + 2F] float64.

    Of samples x [N, F]; those with `valid` [N] 0 do not count. The sums of several learners add
    up, if all have the same shift [F], the mean so far: without one, squares of data far from 0
    would lose the variance in rounding.
    """
    if valid is None:
        valid = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if x.shape != (*valid.shape, *shift.shape) or x.dim() != 2:
        raise ValueError(
            "expected samples [N, F], shift [F] and valid [N], got "
            f"{list(x.shape)}, {list(shift.shape)} and {list(valid.shape)}"
        )
    deviation = (x.detach().double() - shift).masked_fill((valid == 0).unsqueeze(1), 0.0)
    count = (valid != 0).sum(0, keepdim=True)
    return torch.cat((count, deviation.sum(0), deviation.square().sum(0)))


def merge(moments: Moments, sums: Tensor) -> Moments:
    """Returns the moments after those of `batch_sums` too, whose shift was `moments.mean`.

    Chan, Golub and LeVeque 1983. Sums of no sample leave the moments as they are.
    """
    count, (first, second) = sums[0], sums[1:].chunk(2)
    samples = moments.samples + count
    step = first / samples
    # Not below 0, where rounding may bring the variance of what is constant.
    var = ((moments.samples * moments.var + second) / samples - step**2).clamp(min=0.0)
    after = Moments(samples, moments.mean + step, var)
    return Moments._make(
        torch.where(count > 0, new, old) for new, old in zip(after, moments, strict=True)
    )


def discounted_sums(r: Tensor, first: Tensor, discounting: float, start: Tensor) -> Tensor:
    """Returns G_t = r_t + discounting G_{t-1} (0 where first_t), [T, B], with G_{-1} = start [B].

    The sum of past rewards, discounted backwards, whose variance scales rewards in baselines'
    VecNormalize. Rows `first` begin an episode; the last row is the next call's start.
    """
    check_time_major(r=r, first=first)
    if start.shape != r.shape[1:]:
        raise ValueError(f"expected start {list(r.shape[1:])}, got {list(start.shape)}")
    onward = discounting * (first == 0).to(r.dtype)
    head = torch.addcmul(r[:1], onward[:1], start)
    x = torch.cat((head, r[1:]))
    return accumulate(x.flip(0), onward.flip(0), bounded=discounting <= 1.0).flip(0)

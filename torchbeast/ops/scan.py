"""The recursion behind V-trace, GAE and returns, over the time of plain tensors [T, B, ...]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def accumulate(x: Tensor, k: Tensor, bounded: bool) -> Tensor:
    """Returns y with y_t = x_t + k_t y_{t+1} and y_T = 0, [T, B, ...].

    `bounded` promises |k| <= 1 and allows the parallel form: log2(T) steps instead of T, a fifth
    of the time of a loop over torch rows. With larger k its products could overflow to inf next
    to a zero (an episode's end) and become nan, where the plain loop is right.
    """
    if x.shape != k.shape:
        x, k = torch.broadcast_tensors(x, k)
    # Copies of their own: both are written to, and a broadcast tensor repeats its memory.
    out = x.clone(memory_format=torch.contiguous_format)
    y: Any = out
    factor: Any = k.clone(memory_format=torch.contiguous_format)
    known = x.dtype in (torch.float32, torch.float64)  # numpy has no bfloat16
    if known and x.device.type == "cpu" and not torch.compiler.is_compiling():
        y, factor = y.numpy(), factor.numpy()  # views; numpy's cost per call is a third of torch's
    if bounded:
        _scan(y, factor)
    else:
        for t in range(len(y) - 2, -1, -1):
            y[t] += factor[t] * y[t + 1]
    return out


def check_time_major(**named: Tensor | None) -> None:
    """Raises ValueError unless all tensors (None counts as absent) agree in rank and in [T, B]."""
    tensors = {name: x for name, x in named.items() if x is not None}
    shapes = [x.shape for x in tensors.values()]
    rank, lead = len(shapes[0]), shapes[0][:2]
    if rank < 2 or any(len(shape) != rank or shape[:2] != lead for shape in shapes):
        got = ", ".join(f"{name} {list(x.shape)}" for name, x in tensors.items())
        raise ValueError(f"expected tensors of one rank that agree in [T, B], got {got}")


def _scan(y: Any, factor: Any) -> None:
    # After the round with reach s, y_t holds the terms t .. t+2s-1 and factor_t their product.
    reach = 1
    while reach < len(y):
        y[:-reach] += factor[:-reach] * y[reach:]
        factor[:-reach] = factor[:-reach] * factor[reach:]
        reach *= 2

"""Prioritised replay: how much a sample counts, and how soon a sequence should come again."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbeast.ops.policy_gradient import masked


def importance_weights(oversampling: Tensor, beta: float) -> Tensor:
    """Returns (N P(i))^-beta over the largest of the batch, [...]: at most 1.

    arXiv:1511.05952 section 3.4. `oversampling` [...] is N P(i), above 0: how many times more often
    than from a uniform replay a sample comes. beta 1 corrects for it in full, 0 not at all.
    """
    # The rarest sample has the largest weight: divided by it first, nothing overflows.
    return (oversampling.min() / oversampling) ** beta


def sequence_priority(td: Tensor, valid: Tensor | None = None, eta: float = 0.9) -> Tensor:
    """Returns eta max_t |td| + (1 - eta) mean_t |td| [B] without gradient, of td [T, B].

    R2D2, Kapturowski et al. 2019, section 2.3. Only over steps where `valid` [T, B] is not 0; a
    sequence that has none gets 0.
    """
    with torch.no_grad():
        size = masked(td.abs(), valid)
        steps = len(td) if valid is None else (valid != 0).sum(0).clamp(min=1)
        return eta * size.amax(0) + (1 - eta) * size.sum(0) / steps

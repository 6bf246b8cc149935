"""Exploration: how often each actor acts at random, and the action it then takes."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbeast.ops.q_learning import greedy


def epsilon_ladder(place: Tensor, base: float = 0.4, alpha: float = 7.0) -> Tensor:
    """Returns base^(1 + alpha place) [...]: an epsilon for every actor, kept for good.

    Ape-X, arXiv:1803.00933 section 4.1, also R2D2. `place` of actor i of N is i / (N - 1): the
    first explores most.
    """
    return base ** (1 + alpha * place)


def epsilon_greedy(
    q: Tensor,
    epsilon: Tensor | float,
    allowed: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns the greedy action of q [..., A], or with probability epsilon any one, int64 [...].

    Both only among those where `allowed` [..., A] is not 0; where nothing is, action 0. Draws
    A + 1 numbers for each action to take whatever the values are, so that a run repeats.

    Args:
        q: [..., A].
        epsilon: a number, or a tensor that broadcasts to [...].
        allowed: [..., A]; None allows all.
        generator: of the random numbers, on the device of q; None is torch's global one.
    """
    # The best of equally distributed numbers is a uniform choice, whatever is forbidden. They are
    # float32 even if q is bfloat16, whose few values would tie.
    *lead, actions = q.shape
    noise = torch.rand((*lead, actions + 1), generator=generator, device=q.device)
    explore = (noise[..., -1] < epsilon).unsqueeze(-1)
    return greedy(torch.where(explore, noise[..., :-1], q), allowed)

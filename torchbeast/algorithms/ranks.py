"""Sums over several learners: of gradients, statistics and decisions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist


class Disconnected(RuntimeError):
    """Another learner is gone, or did not answer in time."""


def num_ranks() -> int:
    """Returns the number of learners that share each update."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Turns what torch.distributed raises about a learner that is gone into Disconnected."""
    try:
        yield
    except RuntimeError as error:
        raise Disconnected(f"another learner is gone, or did not answer: {error}") from error


def sum_over_ranks(x: torch.Tensor) -> torch.Tensor:
    """Returns the sum of all learners' ``x``."""
    if num_ranks() > 1:
        x = x.clone()
        with connected():
            dist.all_reduce(x)
    return x


def mean_over_ranks(x: torch.Tensor) -> torch.Tensor:
    """Returns the mean of all learners' ``x``, so that all decide alike."""
    return sum_over_ranks(x) / num_ranks()


def reduce_gradients(parameters: list[torch.nn.Parameter], average: bool) -> None:
    """Makes the gradients of all ranks the sum (or average) of theirs: one flat all-reduce."""
    ranks = num_ranks()
    if ranks == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    with connected():
        dist.all_reduce(flat)
    if average:
        flat /= ranks
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))

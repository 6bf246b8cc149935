"""Algorithms that fail as soon as two learners differ."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchbeast.algorithms import ddpg, dqn
from torchbeast.algorithms.ranks import num_ranks, sum_over_ranks
from torchbeast.data import Rollout, tree_map


class Watched(dqn.DQN):
    """DQN that compares weights, target network and settings of all learners in each update."""

    def update(self, batch: Rollout, steps: int) -> Any:
        update = super().update(batch, steps)
        check_same(steps, self.optimizer, self.model, self.target)
        return update


class WatchedDDPG(ddpg.DDPG):
    """DDPG that also compares each gradient with that of one learner with all of the batch."""

    def update(self, batch: Rollout, steps: int) -> Any:
        alone = copy.deepcopy(self)
        # Both learners do the same here, so that the mean of their gradients is the gradient.
        ddpg.DDPG.update(alone, tree_map(joined, batch), steps)
        update = super().update(batch, steps)
        assert batch.reward.shape[1] == self.config.batch_size == 4
        check_same(steps, self.optimizer, self.model, self.critics, self.target, self.target_policy)
        for ours, whole in zip(gradients(self), gradients(alone), strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-3, atol=1e-5)
        return update


def check_same(steps: int, optimizer: torch.optim.Optimizer, *parts: nn.Module) -> None:
    """Raises AssertionError unless two learners have the same of everything."""
    numbers = [p.double().sum() for part in parts for p in part.parameters()]
    numbers += [torch.tensor(float(steps)), torch.tensor(optimizer.param_groups[0]["lr"])]
    ours = torch.stack([x.detach().double() for x in numbers])
    assert num_ranks() == 2
    torch.testing.assert_close(sum_over_ranks(ours.clone()), 2 * ours, rtol=1e-9, atol=1e-9)


def joined(x: Tensor) -> Tensor:
    """Returns x [T+1, B, ...], or [B], of all learners side by side."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(num_ranks())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, min(1, x.dim() - 1))


def gradients(algorithm: ddpg.DDPG) -> list[Tensor]:
    """Returns the gradients of the last update."""
    found = [p.grad for p in algorithm.optimizer.param_groups[0]["params"]]
    assert all(g is not None and g.any() for g in found)
    return found

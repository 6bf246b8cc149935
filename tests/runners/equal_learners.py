"""An algorithm that fails as soon as two learners differ."""

from __future__ import annotations

from typing import Any

import torch

from torchbeast.algorithms import dqn
from torchbeast.algorithms.ranks import num_ranks, sum_over_ranks
from torchbeast.data import Rollout


class Watched(dqn.DQN):
    """DQN that compares weights, target network and settings of all learners in each update."""

    def update(self, batch: Rollout, steps: int) -> Any:
        update = super().update(batch, steps)
        numbers = [p.double().sum() for p in self.model.parameters()]
        numbers += [p.double().sum() for p in self.target.parameters()]
        numbers += [torch.tensor(float(steps)), torch.tensor(self.optimizer.param_groups[0]["lr"])]
        ours = torch.stack([x.detach().double() for x in numbers])
        assert num_ranks() == 2
        torch.testing.assert_close(sum_over_ranks(ours.clone()), 2 * ours, rtol=1e-9, atol=1e-9)
        return update

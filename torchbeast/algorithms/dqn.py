"""DQN: deep Q-learning (Mnih et al. 2015), with double and dueling networks and n steps."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from torchbeast import ops
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_learning import QLearning, Settings
from torchbeast.data import Rollout


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """DQN. The loss is a mean over the transitions of a batch."""

    huber_kappa: float | None = 1.0
    """Errors beyond this count linearly: their gradient is clipped; None: none do."""


class DQN(QLearning):
    """Learns the value of each action; double (1509.06461) and dueling (1511.06581) if asked."""

    config_type = Config

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step on the Huber loss of Q(s, a) against r + gamma max Q(s', .)."""
        c = self.config
        now, nxt = batch.rows(slice(0, 1)), batch.rows(slice(1, 2))
        answer, _ = self.model(now, ())
        q = ops.chosen(self.values(answer.numbers), now.action)[0]

        target, _ = self.target(nxt, ())
        best = self.best(self.online(nxt) if c.double else target)
        discount = c.discounting * nxt.discount  # of n steps: the replay has the rest of it
        expected = ops.q_target(nxt.reward, discount, self.values(target.numbers), best)[0]

        td: Tensor = expected - q
        loss = ops.huber(td, c.huber_kappa)
        metrics = {"q": q.mean(), "td_error": td.abs().mean()}
        return self.learn(loss, td.detach().abs(), batch, steps, metrics)

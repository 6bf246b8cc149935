"""IQN: a network that answers for any quantile it is asked for (arXiv:1806.06923)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_learning import QLearning, Settings
from torchbeast.data import EnvSpec, Rollout, Tree


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """IQN. The loss is a sum over quantiles and a mean over the transitions of a batch."""

    num_taus: int = 64
    """Quantiles asked for of the model in the loss (N of the paper)."""
    num_target_taus: int = 64
    """Quantiles asked for of the target network (N')."""
    num_acting_taus: int = 32
    """Quantiles whose mean says which action is best (K)."""
    huber_kappa: float = 1.0
    """Errors beyond this count linearly."""
    learning_rate: float = 0.00005
    """Adam's step size."""
    epsilon: float = 0.01 / 32
    """Adam's epsilon."""


class IQN(QLearning):
    """Learns the return at randomly drawn quantiles, for each action."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        super().__init__(config, network, spec, total_steps, implicit=True)

    def values(self, numbers: Tensor) -> Tensor:
        """Returns the expected returns [T, B, A] of quantiles [T, B, A, N]."""
        return numbers.mean(-1)

    def ask(
        self, model: nn.Module, rows: Rollout, state: Tree, noise: bool
    ) -> tuple[nets.ActionValues, Tree]:
        """Returns the answer by which actions are chosen: at K random quantiles."""
        return model(rows, state, noise=noise, taus=self._taus(rows, self.config.num_acting_taus))

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step of quantile regression on samples of r + gamma Z(s', a*)."""
        c = self.config
        now, nxt = batch.rows(slice(0, 1)), batch.rows(slice(1, 2))
        taus = self._taus(now, c.num_taus)
        answer, _ = self.model(now, (), taus=taus)
        quantiles = ops.chosen(answer.numbers, now.action)[0]

        target, _ = self.target(nxt, (), taus=self._taus(nxt, c.num_target_taus))
        # The choice has quantiles of its own (equation 3): no maximum over the target's luck.
        choosing = self.online(nxt) if c.double else self.ask(self.target, nxt, (), True)[0]
        best = self.best(choosing)
        discount = c.discounting * nxt.discount
        later = ops.chosen(target.numbers, best)
        expected = (nxt.reward.unsqueeze(-1) + discount.unsqueeze(-1) * later)[0]

        loss = ops.quantile_huber_loss(quantiles, taus[0], expected, c.huber_kappa, over_kappa=True)
        return self.learn(loss, loss.detach(), batch, steps, {"q": quantiles.mean()})

    def _taus(self, rows: Rollout, count: int) -> Tensor:
        return torch.rand(*rows.reward.shape, count, device=self.device)

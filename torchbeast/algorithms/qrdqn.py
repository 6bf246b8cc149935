"""QR-DQN: the distribution of returns by its quantiles (arXiv:1710.10044)."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from torchbeast import nets, ops
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_learning import QLearning, Settings
from torchbeast.data import EnvSpec, Rollout


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """QR-DQN. The loss is a sum over quantiles and a mean over the transitions of a batch."""

    num_quantiles: int = 200
    """Quantiles of the distribution."""
    huber_kappa: float = 1.0
    """Errors beyond this count linearly."""
    learning_rate: float = 0.00005
    """Adam's step size."""
    epsilon: float = 0.01 / 32
    """Adam's epsilon."""


class QRDQN(QLearning):
    """Learns which returns a fixed share of the time is not exceeded, for each action."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        super().__init__(config, network, spec, total_steps, numbers=config.num_quantiles)

    def values(self, numbers: Tensor) -> Tensor:
        """Returns the expected returns [T, B, A] of quantiles [T, B, A, N]."""
        return numbers.mean(-1)

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step of quantile regression on samples of r + gamma Z(s', a*)."""
        c = self.config
        now, nxt = batch.rows(slice(0, 1)), batch.rows(slice(1, 2))
        answer, _ = self.model(now, ())
        quantiles = ops.chosen(answer.numbers, now.action)[0]

        target, _ = self.target(nxt, ())
        best = self.best(self.online(nxt) if c.double else target)
        discount = c.discounting * nxt.discount
        later = ops.chosen(target.numbers, best)
        expected = (nxt.reward.unsqueeze(-1) + discount.unsqueeze(-1) * later)[0]

        taus = ops.quantile_midpoints(c.num_quantiles, self.device)
        loss = ops.quantile_huber_loss(quantiles, taus, expected, c.huber_kappa)
        return self.learn(loss, loss.detach(), batch, steps, {"q": quantiles.mean()})

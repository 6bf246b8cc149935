"""C51: the distribution of returns on fixed atoms (arXiv:1707.06887)."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from torchbeast import nets, ops
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_learning import QLearning, Settings
from torchbeast.data import EnvSpec, Rollout


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """C51. The loss is a mean over the transitions of a batch."""

    num_atoms: int = 51
    """Atoms of the distribution."""
    value_min: float = -10.0
    """The lowest atom: no return should be lower; -10 fits clipped rewards."""
    value_max: float = 10.0
    """The highest atom."""
    learning_rate: float = 0.00025
    """Adam's step size."""
    epsilon: float = 0.01 / 32
    """Adam's epsilon."""


class C51(QLearning):
    """Learns the probability of each return, for each action."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        self.atoms = ops.value_atoms(config.value_min, config.value_max, config.num_atoms)
        super().__init__(config, network, spec, total_steps, numbers=config.num_atoms)

    def values(self, numbers: Tensor) -> Tensor:
        """Returns the expected returns [T, B, A] of logits [T, B, A, N]."""
        return ops.expected_value(numbers, self.atoms)

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step on the cross entropy against the distribution of r + gamma Z(s', a*)."""
        c = self.config
        now, nxt = batch.rows(slice(0, 1)), batch.rows(slice(1, 2))
        answer, _ = self.model(now, ())
        logits = ops.chosen(answer.numbers, now.action)[0]

        target, _ = self.target(nxt, ())
        best = self.best(self.online(nxt) if c.double else target)
        probabilities = ops.chosen(target.numbers, best).softmax(-1)
        discount = c.discounting * nxt.discount
        projected = ops.categorical_projection(self.atoms, probabilities, nxt.reward, discount)[0]

        loss = ops.categorical_loss(logits, projected)
        q = ops.expected_value(logits.detach(), self.atoms)
        return self.learn(loss, loss.detach(), batch, steps, {"q": q.mean()})

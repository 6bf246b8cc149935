"""REINFORCE with a baseline (Williams, 1992): a whole algorithm in one file outside the package.

torchbeast train examples/own_algorithm.py:Reinforce --env CartPole-v1 --total_steps 300k
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.base import Algorithm, Once, Update
from torchbeast.data import EnvSpec, Rollout, Tree


@dataclasses.dataclass(frozen=True)
class Config:
    """REINFORCE. Every field is a flag; its docstring is the help."""

    unroll_length: int = 64
    """T: steps in a rollout."""
    batch_size: int = 8
    """B: rollouts in a batch."""
    discounting: float = 0.99
    """Discount factor gamma."""
    baseline_cost: float = 0.5
    """Weight of the baseline's loss."""
    learning_rate: float = 0.003
    """Adam's step size at the start; falls to 0 at total_steps."""


class Reinforce(Algorithm):
    """Raises the probability of actions after which more came than the baseline expected."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        super().__init__(config, network, spec, total_steps)
        self.needs = Once(config.unroll_length, config.batch_size, max_lag=0)
        self.model = nets.build(network, spec, config.discounting)
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.learning_rate)

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        """Samples from the policy; takes its mode in evaluation."""
        output, state = model(rows, state)
        policy = self.model.distribution(output.logits)
        return policy.mode() if explore is None else policy.sample(), {}, state

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step of the policy gradient."""
        output, _ = self.model(batch, batch.state)
        now, nxt = batch.rows(slice(None, -1)), batch.rows(slice(1, None))
        valid = (~nxt.first).float()  # nobody chose the step into a new episode
        value = output.value[:-1]
        policy = self.model.distribution(output.logits[:-1])

        # lambda 1: the rewards to the end of the episode, or of the rollout plus its value there.
        advantage = ops.gae(
            v_tm1=value,
            v_t=output.value[1:],
            r_t=self.rewards(batch),
            discount_t=self.config.discounting * nxt.discount,
            lambda_=1.0,
            valid=valid,
        )
        log_prob = policy.log_prob(now.action)
        pg_loss = ops.policy_gradient_loss(log_prob, advantage, valid).mean()
        target = value.detach() + advantage
        baseline_loss = ops.baseline_loss(value, target, valid).mean()
        loss = pg_loss + self.config.baseline_cost * baseline_loss

        learning_rate = ops.linear(steps, self.total_steps, self.config.learning_rate)
        ops.set_learning_rate(self.optimizer, learning_rate)
        norm = self.gradient_step(loss, self.optimizer, max_norm=0.5, reduction="mean")
        return Update({"pg_loss": pg_loss, "baseline_loss": baseline_loss, "grad_norm": norm})

"""A2C: advantage actor-critic, the synchronous form of A3C (arXiv:1602.01783)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.base import Algorithm, Once, Update
from torchbeast.data import EnvSpec, Rollout, Tree


@dataclasses.dataclass(frozen=True)
class Config:
    """A2C. Losses are means over the transitions of a batch."""

    unroll_length: int = 5
    """T: steps in a rollout."""
    batch_size: int = 16
    """B: rollouts in a batch, over all learners; as many environments act."""
    discounting: float = 0.99
    """Discount factor gamma."""
    gae_lambda: float = 1.0
    """Decay of the lambda return; 1: as many steps as the rollout has."""
    reward_clipping: Literal["abs_one", "none"] = "none"
    """abs_one clamps rewards to [-1, 1] in the loss; reported returns are never clipped."""
    normalize_advantages: bool = False
    """Shift and scale the advantages of each batch to mean 0 and deviation 1."""
    entropy_cost: float = 0.01
    """Weight of the entropy bonus."""
    baseline_cost: float = 0.5
    """Weight of the baseline's loss."""
    learning_rate: float = 0.0007
    """The optimizer's step size."""
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    """linear: the learning rate falls to 0 at total_steps."""
    optimizer: Literal["rmsprop", "rmsprop_tf", "adam"] = "rmsprop_tf"
    """rmsprop is PyTorch's (epsilon outside the root), rmsprop_tf TensorFlow's (inside)."""
    alpha: float = 0.99
    """RMSProp's smoothing constant."""
    epsilon: float = 1e-5
    """The optimizer's epsilon."""
    grad_norm_clipping: float = 0.5
    """Largest global norm of the gradient."""
    max_lag: int = 0
    """Most updates that the acting weights may be behind; nothing corrects for it."""


class A2C(Algorithm):
    """Actor-critic that makes one step of the policy gradient on each batch."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        super().__init__(config, network, spec, total_steps)
        self.needs = Once(config.unroll_length, config.batch_size, config.max_lag)
        self.model = nets.build(network, spec, config.discounting)
        self.optimizer = ops.make_optimizer(
            config.optimizer,
            self.model.parameters(),
            config.learning_rate,
            alpha=config.alpha,
            epsilon=config.epsilon,
        )

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        """Samples from the policy; takes its mode in evaluation."""
        output, state = model(rows, state)
        policy = self.model.distribution(output.logits)
        return policy.mode() if explore is None else policy.sample(), {}, state

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step on the policy gradient with lambda returns."""
        c = self.config
        output, _ = self.model(batch, batch.state)
        now, nxt = batch.rows(slice(None, -1)), batch.rows(slice(1, None))
        value = output.value[:-1]
        policy = self.model.distribution(output.logits[:-1])
        valid = (~nxt.first).float()  # nobody chose the step into a new episode

        advantage = ops.gae(
            v_tm1=value,
            v_t=output.value[1:],
            r_t=self.rewards(batch),
            discount_t=c.discounting * nxt.discount,
            lambda_=c.gae_lambda,
            valid=valid,
        )
        target = advantage + value.detach()
        if c.normalize_advantages:
            advantage = ops.standardise(advantage, valid)

        log_prob = policy.log_prob(now.action)
        share = 1 / valid.sum().clamp(min=1)
        pg_loss = share * ops.policy_gradient_loss(log_prob, advantage, valid).sum()
        baseline_loss = share * c.baseline_cost * ops.baseline_loss(value, target, valid).sum()
        entropy_loss = share * c.entropy_cost * ops.entropy_loss(policy.entropy(), valid).sum()
        loss = pg_loss + baseline_loss + entropy_loss

        schedule = ops.SCHEDULES[c.learning_rate_schedule]
        learning_rate = schedule(steps, self.total_steps, c.learning_rate)
        ops.set_learning_rate(self.optimizer, learning_rate)
        norm = self.gradient_step(loss, self.optimizer, c.grad_norm_clipping, reduction="mean")
        return Update(
            {
                "total_loss": loss,
                "pg_loss": pg_loss,
                "baseline_loss": baseline_loss,
                "entropy_loss": entropy_loss,
                "grad_norm": norm,
            }
        )

"""IMPALA: importance weighted actor-learner architecture (arXiv:1802.01561)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.base import Algorithm, Once, Update
from torchbeast.data import EnvSpec, Rollout, Tree


@dataclasses.dataclass(frozen=True)
class Config:
    """IMPALA. Losses are sums over T and B, as in the paper and in TorchBeast's flag defaults."""

    unroll_length: int = 80
    """T: steps in a rollout."""
    batch_size: int = 8
    """B: rollouts in a batch, over all learners."""
    discounting: float = 0.99
    """Discount factor gamma."""
    reward_clipping: Literal["abs_one", "none"] = "abs_one"
    """abs_one clamps rewards to [-1, 1] in the loss; reported returns are never clipped."""
    entropy_cost: float = 0.0006
    """Weight of the entropy bonus."""
    baseline_cost: float = 0.5
    """Weight of the baseline's loss."""
    learning_rate: float = 0.00048
    """At the start; falls linearly to 0 at total_steps."""
    optimizer: Literal["rmsprop", "rmsprop_tf", "adam"] = "rmsprop"
    """rmsprop is PyTorch's (epsilon outside the root), rmsprop_tf TensorFlow's (inside)."""
    alpha: float = 0.99
    """RMSProp's smoothing constant."""
    momentum: float = 0.0
    """RMSProp's momentum."""
    epsilon: float = 0.01
    """The optimizer's epsilon."""
    grad_norm_clipping: float = 40.0
    """Largest global norm of the gradient."""
    vtrace_lambda: float = 1.0
    """Decay of the traces (lambda in V-trace)."""
    clip_rho: float = 1.0
    """Clip of the importance weights in the temporal differences (rho bar)."""
    clip_c: float = 1.0
    """Clip of the importance weights in the traces (c bar)."""
    clip_pg_rho: float = 1.0
    """Clip of the importance weights in the policy gradient."""
    max_lag: int | None = None
    """Most updates that the acting weights may be behind; None for any: V-trace corrects it."""


class Impala(Algorithm):
    """Actor-critic that corrects for the lag of its actors with V-trace."""

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
            momentum=config.momentum,
        )

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        """Samples from the policy; takes its mode in evaluation."""
        output, state = model(rows, state)
        policy = self.model.distribution(output.logits)
        action = policy.mode() if explore is None else policy.sample()
        return action, {"logits": output.logits}, state

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step on the V-trace losses (section 4.2 of the paper)."""
        c = self.config
        output, _ = self.model(batch, batch.state)
        now, nxt = batch.rows(slice(None, -1)), batch.rows(slice(1, None))
        value = output.value[:-1]
        policy = self.model.distribution(output.logits[:-1])
        behaviour_policy = self.model.distribution(now.extras["logits"])
        valid = (~nxt.first).float()  # nobody chose the step into a new episode

        log_prob = policy.log_prob(now.action)
        with torch.no_grad():
            rho = (log_prob - behaviour_policy.log_prob(now.action)).exp() * valid
        targets = ops.vtrace(
            v_tm1=value,
            v_t=output.value[1:],
            r_t=self.rewards(batch),
            discount_t=c.discounting * nxt.discount,
            rho_tm1=rho,
            lambda_=c.vtrace_lambda,
            clip_rho=c.clip_rho,
            clip_c=c.clip_c,
            clip_pg_rho=c.clip_pg_rho,
        )
        pg_loss = ops.policy_gradient_loss(log_prob, targets.advantage, valid).sum()
        baseline_loss = c.baseline_cost * ops.baseline_loss(value, targets.target, valid).sum()
        entropy_loss = c.entropy_cost * ops.entropy_loss(policy.entropy(), valid).sum()
        loss = pg_loss + baseline_loss + entropy_loss

        learning_rate = ops.linear(steps, self.total_steps, c.learning_rate)
        ops.set_learning_rate(self.optimizer, learning_rate)
        norm = self.gradient_step(loss, self.optimizer, c.grad_norm_clipping, reduction="sum")
        return Update(
            {
                "total_loss": loss,
                "pg_loss": pg_loss,
                "baseline_loss": baseline_loss,
                "entropy_loss": entropy_loss,
                "grad_norm": norm,
                "rho": rho.sum() / valid.sum().clamp(min=1),
            }
        )

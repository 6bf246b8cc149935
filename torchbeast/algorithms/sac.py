"""SAC: a policy that earns much and stays as random as it can (arXiv:1812.05905)."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_policy_gradient import Continuous, Settings
from torchbeast.data import EnvSpec, Rollout
from torchbeast.nets.heads import LOG_STD_RANGE


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """SAC. Losses are means over the transitions of a batch; those of two critics add up."""

    temperature: float | None = None
    """Weight alpha of the entropy; None: learned, so that the policy keeps target_entropy."""
    initial_temperature: float = 1.0
    """Where a learned alpha begins."""
    target_entropy: float | None = None
    """Entropy in nats that a learned alpha aims at, of actions whose bounds are -1 and 1; None:
    minus their number of dimensions."""


class SAC(Continuous):
    """Twin critics of what actions earn and how random they leave us, and a squashed Gaussian."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        check(config)
        super().__init__(config, network, spec, total_steps, per_dimension=2)
        entropy = config.target_entropy
        self.target_entropy = -float(self.units.size) if entropy is None else entropy
        self.temperature = Temperature(config.temperature, config.initial_temperature)
        self.learns_too(self.temperature)

    def answer(self, numbers: Tensor, explore: bool) -> Tensor:
        """Returns an action drawn from the policy; without exploration its median."""
        policy = squashed(numbers)
        return policy.sample() if explore else policy.mode()

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step: the critics towards r + gamma V(s'), the policy and its temperature."""
        now, nxt = self.features(batch)
        action = self.units.from_env(batch.action[0])
        alpha = self.temperature().detach()

        with torch.no_grad():
            next_action, next_log_prob = squashed(self.actor.policy(nxt)).sample_with_log_prob()
        next_q = self.target(nxt, next_action).squeeze(-1).amin(0)
        next_value = ops.soft_value(next_q, next_log_prob, alpha)
        expected = ops.td_target(*self.rewards_and_discounts(batch), next_value)
        q = self.critics(now, action).squeeze(-1)  # [2, B]
        td = expected - q
        critic_loss = self.weighted(ops.huber(td, None).sum(0), batch, steps)

        now = now.detach()
        proposed, log_prob = squashed(self.actor.policy(now)).sample_with_log_prob()
        value = self.critics(now, proposed, frozen=True).squeeze(-1).amin(0)
        policy_loss = -ops.soft_value(value, log_prob, alpha)
        entropy_loss = ops.temperature_loss(self.temperature.log, log_prob, self.target_entropy)

        loss = critic_loss + policy_loss + entropy_loss  # the last is constant if alpha is
        surprise = td.abs().mean(0)
        told = dict(
            q=q.mean(), td_error=surprise.mean(), entropy=-log_prob.mean(), temperature=alpha
        )
        update = self.learn(loss, surprise, steps, **told)
        self.target.follow(self.critics)
        return update


def check(config: Config) -> None:
    """Raises ValueError if settings of the temperature exclude each other."""
    if config.temperature is not None and config.target_entropy is not None:
        raise ValueError(
            f"expected --temperature or --target_entropy, got both ({config.temperature:g} and "
            f"{config.target_entropy:g}); a fixed temperature aims at no entropy"
        )


class Temperature(nn.Module):
    """The weight alpha of the entropy, which is exp(log).

    Args:
        fixed: what alpha stays; None: it is learned.
        initial: where it begins then.
    """

    def __init__(self, fixed: float | None, initial: float) -> None:
        super().__init__()
        learned = fixed is None
        log = torch.tensor(math.log(initial if fixed is None else fixed))
        self.log = nn.Parameter(log, requires_grad=learned)

    def forward(self) -> Tensor:
        """Returns alpha []."""
        return self.log.exp()


def squashed(numbers: Tensor) -> ops.TanhGaussian:
    """Returns the policy with mean and log_std [..., 2 D]."""
    mean, log_std = numbers.chunk(2, -1)
    return ops.TanhGaussian(mean, log_std.clamp(*LOG_STD_RANGE))

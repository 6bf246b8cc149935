"""SAC for discrete actions: a mean over all of them in place of a sample (arXiv:1910.07207)."""

from __future__ import annotations

import dataclasses
import math

import torch
from gymnasium import spaces
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms import sac
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_policy_gradient import QPolicyGradient, at_random
from torchbeast.data import EnvSpec, Rollout, Tree


@dataclasses.dataclass(frozen=True)
class Config(sac.Config):
    """Discrete SAC. Losses are means over a batch; those of two critics add up."""

    target_entropy: float | None = None
    """Entropy in nats that a learned alpha aims at; None: 0.98 of the largest possible."""


class SACDiscrete(QPolicyGradient):
    """Twin critics that judge all actions at once, and a policy over them."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        if not isinstance(spec.action, spaces.Discrete):
            raise ValueError(f"expected Discrete actions, got {spec.action}; use sac for Box ones")
        sac.check(config)
        self.actions = n = int(spec.action.n)
        super().__init__(
            config, network, spec, total_steps, outputs=n, action_size=0, members=2, numbers=n
        )
        entropy = config.target_entropy
        self.target_entropy = 0.98 * math.log(n) if entropy is None else entropy
        self.temperature = sac.Temperature(config.temperature, config.initial_temperature)
        self.learns_too(self.temperature)

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        """Draws from the policy, or anything before learning begins; evaluation takes the mode."""
        logits, state = model(rows, state)
        policy = ops.Categorical(logits)
        if explore is None:
            return policy.mode(), {}, state
        action = policy.sample()
        return at_random(model, action, torch.randint_like(action, self.actions)), {}, state

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step: the critics towards r + gamma V(s'), the policy and its temperature."""
        now, nxt = self.features(batch)
        alpha = self.temperature().detach()

        with torch.no_grad():
            next_log_probs = self.actor.policy(nxt).log_softmax(-1)
        next_q = self.target(nxt, None).amin(0)  # [B, A]
        next_value = expected(next_log_probs, ops.soft_value(next_q, next_log_probs, alpha))
        target = ops.td_target(*self.rewards_and_discounts(batch), next_value)
        q_of_all = self.critics(now, None)  # [2, B, A]
        q = torch.stack([ops.chosen(x, batch.action[0]) for x in q_of_all])
        td = target - q
        critic_loss = self.weighted(ops.huber(td, None).sum(0), batch, steps)

        log_probs = self.actor.policy(now.detach()).log_softmax(-1)
        value = q_of_all.detach().amin(0)
        policy_loss = -expected(log_probs, ops.soft_value(value, log_probs, alpha))
        entropy = -expected(log_probs, log_probs).detach()
        entropy_loss = ops.temperature_loss(self.temperature.log, -entropy, self.target_entropy)

        loss = critic_loss + policy_loss + entropy_loss
        surprise = td.abs().mean(0)
        told = dict(q=q.mean(), td_error=surprise.mean(), entropy=entropy.mean(), temperature=alpha)
        update = self.learn(loss, surprise, steps, **told)
        self.target.follow(self.critics)
        return update


def expected(log_probs: Tensor, x: Tensor) -> Tensor:
    """Returns the mean [...] of x [..., A] over actions with ``log_probs`` [..., A]."""
    return (log_probs.exp() * x).sum(-1)

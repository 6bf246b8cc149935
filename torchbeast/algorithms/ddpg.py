"""DDPG: a deterministic policy climbs what its critic says (arXiv:1509.02971)."""

from __future__ import annotations

import dataclasses

from torchbeast import nets, ops
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_policy_gradient import Continuous, Settings
from torchbeast.algorithms.target import MovingTarget
from torchbeast.data import EnvSpec, Rollout


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """DDPG. Losses are means over the transitions of a batch."""

    exploration_noise: float = 0.1
    """Deviation of the noise added to actions, whose bounds are -1 and 1."""


class DDPG(Continuous):
    """One critic, one policy, and a slow copy of each."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        super().__init__(config, network, spec, total_steps, members=1)
        self.target_policy = MovingTarget(self.actor.policy, config.target_rate)

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step: the critic towards r + gamma Q'(s', mu'(s')), the policy up Q(s, mu(s))."""
        now, nxt = self.features(batch)
        action = self.units.from_env(batch.action[0])

        next_q = self.target(nxt, self.target_policy(nxt).tanh())[0, :, 0]
        expected = ops.td_target(*self.rewards_and_discounts(batch), next_q)
        q = self.critics(now, action)[0, :, 0]
        td = expected - q
        critic_loss = self.weighted(ops.huber(td, None), batch, steps)

        now = now.detach()
        policy_loss = -self.critics(now, self.actor.policy(now).tanh(), frozen=True)[0, :, 0]

        surprise = td.abs()
        told = dict(q=q.mean(), td_error=surprise.mean())
        update = self.learn(critic_loss + policy_loss, surprise, steps, **told)
        self.target.follow(self.critics)
        self.target_policy.follow(self.actor.policy)
        return update

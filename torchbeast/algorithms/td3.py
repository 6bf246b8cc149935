"""TD3: DDPG that distrusts its critics (arXiv:1802.09477)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from torchbeast import nets, ops
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_policy_gradient import Continuous, Settings
from torchbeast.algorithms.target import MovingTarget
from torchbeast.data import EnvSpec, Rollout


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """TD3. Losses are means over the transitions of a batch; those of two critics add up."""

    policy_delay: int = 2
    """Updates of the critics for each one of the policy and of the target networks."""
    exploration_noise: float = 0.1
    """Deviation of the noise added to actions, whose bounds are -1 and 1."""
    target_noise: float = 0.2
    """Deviation of the noise added to actions of the target policy, in the same units."""
    target_noise_clip: float = 0.5
    """Largest such noise."""


class TD3(Continuous):
    """Twin critics, noise around the target policy's action, and a policy that learns later."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        super().__init__(config, network, spec, total_steps)
        self.target_policy = MovingTarget(self.actor.policy, config.target_rate)
        self.delay = Delay(config.policy_delay)

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step: the critics towards the lower target, the policy now and then up Q_1."""
        c = self.config
        now, nxt = self.features(batch)
        action = self.units.from_env(batch.action[0])

        noise = torch.randn_like(action)
        next_action = self.target_policy(nxt).tanh()
        next_action = ops.smoothed(next_action, noise, c.target_noise, c.target_noise_clip)
        next_q = self.target(nxt, next_action).squeeze(-1).amin(0)
        expected = ops.td_target(*self.rewards_and_discounts(batch), next_q)
        q = self.critics(now, action).squeeze(-1)  # [2, B]
        td = expected - q
        loss = self.weighted(ops.huber(td, None).sum(0), batch, steps)

        due = self.delay()
        if due:
            now = now.detach()
            proposed = self.actor.policy(now).tanh()
            loss = loss - self.critics(now, proposed, members=1, frozen=True)[0, :, 0]

        surprise = td.abs().mean(0)
        told = dict(q=q.mean(), td_error=surprise.mean())
        update = self.learn(loss, surprise, steps, **told)
        if due:
            self.target.follow(self.critics)
            self.target_policy.follow(self.actor.policy)
        return update


class Delay:
    """Says at every so many calls that something is due; their number lies in the checkpoint."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.calls = 0

    def __call__(self) -> bool:
        """Returns whether this call is due."""
        self.calls += 1
        return self.calls % self.every == 0

    def state_dict(self) -> dict[str, int]:
        """Returns the number of calls."""
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back the number of calls."""
        self.calls = int(state["calls"])

"""D4PG: DDPG by many actors, whose critic knows distributions of returns (arXiv:1804.08617)."""

from __future__ import annotations

import dataclasses

from torchbeast import nets, ops
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_policy_gradient import Continuous, Settings
from torchbeast.algorithms.target import MovingTarget
from torchbeast.data import EnvSpec, Rollout


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """D4PG. Losses are means over the transitions of a batch. Give it actors: --num_actors."""

    n_step: int = 5
    """Rewards summed up before a value takes over."""
    prioritized: bool = True
    """Draw what was surprising more often."""
    num_atoms: int = 51
    """Atoms of the distribution of returns."""
    value_min: float = -100.0
    """The lowest atom: no return should be lower."""
    value_max: float = 100.0
    """The highest atom."""
    exploration_noise: float = 0.3
    """Deviation of the noise added to actions, whose bounds are -1 and 1."""


class D4PG(Continuous):
    """One critic, whose answer are the probabilities of returns on fixed atoms."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        self.atoms = ops.value_atoms(config.value_min, config.value_max, config.num_atoms)
        super().__init__(config, network, spec, total_steps, members=1, numbers=config.num_atoms)
        self.target_policy = MovingTarget(self.actor.policy, config.target_rate)

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step: the critic towards r + gamma Z'(s', mu'(s')), the policy up E Z(s, mu(s))."""
        now, nxt = self.features(batch)
        action = self.units.from_env(batch.action[0])

        next_logits = self.target(nxt, self.target_policy(nxt).tanh())[0]
        expected = ops.categorical_projection(
            self.atoms, next_logits.softmax(-1), *self.rewards_and_discounts(batch)
        )
        logits = self.critics(now, action)[0]  # [B, N]
        surprise = ops.categorical_loss(logits, expected)
        critic_loss = self.weighted(surprise, batch, steps)

        now = now.detach()
        proposed = self.critics(now, self.actor.policy(now).tanh(), frozen=True)[0]
        policy_loss = -ops.expected_value(proposed, self.atoms)

        q = ops.expected_value(logits.detach(), self.atoms)
        update = self.learn(critic_loss + policy_loss, surprise, steps, q=q.mean())
        self.target.follow(self.critics)
        self.target_policy.follow(self.actor.policy)
        return update

"""Ape-X: DQN far apart, many actors that each explore differently (arXiv:1803.00933)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import Tensor

from torchbeast import nets
from torchbeast.algorithms import dqn
from torchbeast.data import Rollout


@dataclasses.dataclass(frozen=True)
class Config(dqn.Config):
    """Ape-X DQN. Give it actor processes: --num_actors, --envs_per_actor."""

    batch_size: int = 512
    """Transitions in a batch, over all learners."""
    unroll_length: int = 50
    """Steps that an environment makes before the replay gets them."""
    replay_size: int = 2_000_000
    """Environment steps that the replay keeps, over all learners."""
    min_replay_size: int = 50_000
    """Environment steps before the first update."""
    n_step: int = 3
    """Rewards summed up before a value takes over."""
    double: bool = True
    """The model, not the target network, says which next action is best."""
    dueling: bool = True
    """The network adds a value and advantages that it learns apart."""
    prioritized: bool = True
    """Draw what was surprising more often; how surprising, the actors say first."""
    exploration: Literal["schedule", "ladder"] = "ladder"
    """Random actions: fewer and fewer in all environments, or a share of its own for each, from
    0.4 down to 0.4^8."""
    target_interval: int = 160_000
    """Environment steps between two copies of the model into the target network: the paper's
    2,500 updates."""
    grad_norm_clipping: float = 40.0
    """Largest global norm of the gradient."""


class ApeX(dqn.DQN):
    """DQN whose actors leave what they expected, so that the replay knows what surprised them."""

    config_type = Config

    def extras(self, q: Tensor, answer: nets.ActionValues, action: Tensor) -> dict[str, Tensor]:
        """Returns what first priorities are made of."""
        return self.taken_and_best(q, answer, action)

    def initial_priority(self, windows: Rollout) -> Tensor:
        """Returns the errors [B] of n-step Q-learning with the actor's own values (section 3)."""
        discount = self.config.discounting * windows.discount[1]
        expected = windows.reward[1] + discount * windows.extras["best_q"][1]
        return (expected - windows.extras["q"][0]).abs()

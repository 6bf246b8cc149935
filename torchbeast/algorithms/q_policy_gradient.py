"""What Q-function policy gradients share: settings, acting at random first, and gradient steps.

A policy does what critics judge best; critics learn from a replay what actions are worth. Each
algorithm's own file says how the policy acts, what a critic should say, and what the policy's
loss is.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.base import Algorithm, Replayed, Update
from torchbeast.algorithms.target import MovingTarget
from torchbeast.data import EnvSpec, Rollout, Tree, tree_map
from torchbeast.data.replay import Transitions


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of all algorithms whose policy follows the gradient of learned values."""

    unroll_length: int = 1
    """Steps that an environment makes before the replay gets them."""
    batch_size: int = 256
    """Transitions in a batch, over all learners."""
    replay_size: int = 1_000_000
    """Environment steps that the replay keeps, over all learners."""
    min_replay_size: int = 10_000
    """Environment steps before the first update; until then actions are drawn uniformly."""
    replay_ratio: float = 256.0
    """Transitions learned from per environment step: 256 is a batch of 256 for each. Whoever is
    ahead, acting or learning, waits."""
    discounting: float = 0.99
    """Discount factor gamma."""
    n_step: int = 1
    """Rewards summed up before a value takes over."""
    reward_scale: float = 1.0
    """What rewards are multiplied by in the loss; reported returns never are."""
    target_rate: float = 0.005
    """How far target networks come nearer to their models in an update (tau)."""
    learning_rate: float = 0.0003
    """Adam's step size."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 at total_steps."""
    epsilon: float = 1e-8
    """Adam's epsilon."""
    grad_norm_clipping: float | None = None
    """Largest global norm of a gradient; None: any."""
    layer_norm: bool = False
    """A LayerNorm before each activation of the critics: they then stand many updates per step
    (--replay_ratio), as DroQ has shown."""
    prioritized: bool = False
    """Draw what was surprising more often."""
    priority_exponent: float = 0.6
    """How much more often: 0 is uniform, 1 in proportion."""
    importance_exponent: float = 0.4
    """How far losses are corrected for that at the start; rises to 1 at total_steps."""
    random_shift: int = 4
    """Pixels by which pictures are moved at random before they are learned from (DrQ)."""
    reward_clipping: Literal["abs_one", "none"] = "none"
    """abs_one clamps rewards to [-1, 1] in the loss; reported returns are never clipped."""
    take_turns: bool = False
    """Actor processes wait while the learner learns, as in one process; runs repeat then."""


class QPolicyGradient(Algorithm):
    """Acts by a policy, which learns from critics, which learn from a replay.

    Args:
        outputs: numbers that the policy gives.
        action_size: of the vectors that critics judge; 0 if they judge all actions at once.
        members: critics.
        numbers: that each of them gives.
    """

    config: Any

    def __init__(
        self,
        config: Any,
        network: nets.NetworkConfig,
        spec: EnvSpec,
        total_steps: int,
        *,
        outputs: int,
        action_size: int,
        members: int,
        numbers: int,
    ) -> None:
        super().__init__(config, network, spec, total_steps)
        self.needs = Replayed(
            config.unroll_length,
            config.batch_size,
            Transitions(config.n_step, config.discounting, config.reward_clipping == "abs_one"),
            config.replay_size,
            config.min_replay_size,
            config.replay_ratio,
            config.priority_exponent if config.prioritized else None,
            0 if config.take_turns else None,
        )
        self.model, self.critics, pictures = nets.build_actor_critic(
            network,
            spec,
            outputs=outputs,
            action_size=action_size,
            members=members,
            numbers=numbers,
            layer_norm=config.layer_norm,
        )
        self.shift = nets.RandomShift(spec.observation, config.random_shift if pictures else 0)
        self.target = MovingTarget(self.critics, config.target_rate)
        # The encoder learns from the critics alone (DrQ): policies learn too little about pictures.
        self.optimizer = ops.make_optimizer(
            "adam", self.critics.parameters(), config.learning_rate, epsilon=config.epsilon
        )
        self.learns_too(self.actor.encoder)
        self.learns_too(self.actor.policy)

    def learns_too(self, part: nn.Module) -> None:
        """Gives what of ``part`` is learned to the optimizer, too."""
        # All in one group: each costs an update as much as a small product does.
        learned = [p for p in part.parameters() if p.requires_grad]
        self.optimizer.param_groups[0]["params"] += learned

    @property
    def actor(self) -> nets.PolicyNet:
        """Returns the model without what normalises observations for it."""
        return nets.unwrapped(self.model)  # type: ignore[return-value]

    def features(self, batch: Rollout) -> tuple[Tensor, Tensor]:
        """Returns the encoder's features [B, F] of where transitions begin and end.

        The gradient of the first reaches the encoder. Pictures are moved at random.
        """
        with torch.no_grad():
            end = self._encoded(batch, slice(1, 2))
        return self._encoded(batch, slice(0, 1)), end

    def rewards_and_discounts(self, batch: Rollout) -> tuple[Tensor, Tensor]:
        """Returns the (n-step) rewards and discounts [B] of transitions."""
        c = self.config
        return batch.reward[1] * c.reward_scale, c.discounting * batch.discount[1]

    def weighted(self, loss: Tensor, batch: Rollout, steps: int) -> Tensor:
        """Returns losses [B] of critics, weighted if they were drawn by priority."""
        c = self.config
        if not c.prioritized:
            return loss
        beta = ops.linear(steps, self.total_steps, c.importance_exponent, 1.0)
        return loss * ops.importance_weights(batch.extras["oversampling"][0], beta)

    def learn(self, loss: Tensor, surprise: Tensor, steps: int, **metrics: Tensor) -> Update:
        """Returns the update after a gradient step on losses [B] of critics and policy together.

        Each part learns from what its own loss says of it: the policy's must not reach the critics.
        ``surprise`` [B] is what a replay may draw by.
        """
        c = self.config
        schedule = ops.SCHEDULES[c.learning_rate_schedule]
        ops.set_learning_rate(self.optimizer, schedule(steps, self.total_steps, c.learning_rate))
        total_loss = loss.mean()
        norm = self.gradient_step(total_loss, self.optimizer, c.grad_norm_clipping)
        self.actor.random.zero_()
        good = bool(torch.isfinite(norm))  # else the step was left out, and surprise means nothing
        told = {"total_loss": total_loss, "grad_norm": norm, **metrics}
        return Update(told, surprise.detach() if good else None)

    def _encoded(self, batch: Rollout, rows: slice) -> Tensor:
        obs = self.shift(tree_map(lambda x: x[rows], batch.obs))
        return self.model(batch._replace(obs=obs), (), encode=True)[0][0]


class Continuous(QPolicyGradient):
    """Those of Box actions, which lie between -1 and 1 for policies and critics.

    Args:
        per_dimension: numbers that the policy gives for each dimension of an action.
        members: critics.
        numbers: what a critic answers for an action: 1 value, or so many that make one.
    """

    def __init__(
        self,
        config: Any,
        network: nets.NetworkConfig,
        spec: EnvSpec,
        total_steps: int,
        *,
        per_dimension: int = 1,
        members: int = 2,
        numbers: int = 1,
    ) -> None:
        self.units = units = nets.ActionUnits(spec.action)
        super().__init__(
            config,
            network,
            spec,
            total_steps,
            outputs=per_dimension * units.size,
            action_size=units.size,
            members=members,
            numbers=numbers,
        )

    def answer(self, numbers: Tensor, explore: bool) -> Tensor:
        """Returns the actions [T, B, D] for numbers of the policy, with noise if it explores."""
        action = numbers.tanh()
        if not explore:
            return action
        return ops.explored(action, torch.randn_like(action), self.config.exploration_noise)

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        """Does what the policy says, or anything at all before learning begins."""
        numbers, state = model(rows, state)
        action = self.answer(numbers, explore is not None)
        if explore is not None:
            action = at_random(model, action, torch.rand_like(action).mul_(2).sub_(1))
        return self.units.to_env(action), {}, state


def at_random(model: nn.Module, action: Tensor, other: Tensor) -> Tensor:
    """Returns the ``other`` actions [T, B, ...] as often as the model's ``random`` says."""
    lead = torch.rand(action.shape[:2], device=action.device)
    chosen = lead < nets.unwrapped(model).random  # type: ignore[operator]
    return torch.where(chosen.reshape(*lead.shape, *[1] * (action.dim() - 2)), other, action)

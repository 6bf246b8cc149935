"""What deep Q-learning algorithms share: settings, acting, and the end of an update.

Each algorithm's own file says what its network answers for an action, how that makes a value, and
what its loss is.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.base import Algorithm, Replayed, Update
from torchbeast.algorithms.target import Target
from torchbeast.data import EnvSpec, Rollout, Tree
from torchbeast.data.replay import Sequences, Transitions


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of all algorithms that learn values of actions from a replay."""

    unroll_length: int = 4
    """Steps that an environment makes before the replay gets them."""
    batch_size: int = 32
    """Transitions (or sequences) in a batch, over all learners."""
    replay_size: int = 100_000
    """Environment steps that the replay keeps, over all learners."""
    min_replay_size: int = 1_000
    """Environment steps before the first update."""
    replay_ratio: float = 8.0
    """Transitions learned from per environment step: 8 is a batch of 32 every 4 steps. Whoever is
    ahead, acting or learning, waits."""
    discounting: float = 0.99
    """Discount factor gamma."""
    n_step: int = 1
    """Rewards summed up before a value takes over."""
    double: bool = False
    """The model, not the target network, says which next action is best."""
    dueling: bool = False
    """The network adds a value and advantages that it learns apart."""
    noisy: bool = False
    """Explore by noise in the weights, whose size is learned, instead of by random actions."""
    prioritized: bool = False
    """Draw what was surprising more often."""
    priority_exponent: float = 0.6
    """How much more often: 0 is uniform, 1 in proportion."""
    importance_exponent: float = 0.4
    """How far losses are corrected for that at the start; rises to 1 at total_steps."""
    reward_clipping: Literal["abs_one", "none"] = "none"
    """abs_one clamps rewards to [-1, 1] in the loss; reported returns are never clipped."""
    exploration: Literal["schedule", "ladder"] = "schedule"
    """Random actions: fewer and fewer in all environments, or a share of its own for each, from
    0.4 down to 0.4^8."""
    exploration_start: float = 1.0
    """Share of random actions at the start of the schedule."""
    exploration_end: float = 0.05
    """Share of random actions at its end."""
    exploration_fraction: float = 0.1
    """Part of total_steps in which the share falls."""
    exploration_evaluation: float = 0.001
    """Share of random actions in evaluation."""
    target_interval: int = 1_000
    """Environment steps between two copies of the model into the target network."""
    learning_rate: float = 0.0001
    """Adam's step size."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 at total_steps."""
    epsilon: float = 1e-8
    """Adam's epsilon."""
    grad_norm_clipping: float = 10.0
    """Largest global norm of the gradient."""
    take_turns: bool = False
    """Actor processes wait while the learner learns, as in one process; runs repeat then."""


class QLearning(Algorithm):
    """Acts greedily, but for exploration, by values that a network learns from a replay.

    Args:
        numbers: what the network answers for each action: 1 value, or so many that make one.
        implicit: its answers are for fractions of the distribution that it is told (IQN).
    """

    config: Any

    def __init__(
        self,
        config: Any,
        network: nets.NetworkConfig,
        spec: EnvSpec,
        total_steps: int,
        *,
        numbers: int = 1,
        implicit: bool = False,
    ) -> None:
        super().__init__(config, network, spec, total_steps)
        self.needs = Replayed(
            config.unroll_length,
            config.batch_size,
            self.window(),
            config.replay_size,
            config.min_replay_size,
            config.replay_ratio,
            config.priority_exponent if config.prioritized else None,
            0 if config.take_turns else None,
        )
        self.model = nets.build_q(
            network,
            spec,
            numbers=numbers,
            dueling=config.dueling,
            noisy=config.noisy,
            implicit=implicit,
            discounting=config.discounting,
        )
        if nets.is_recurrent(self.model) and isinstance(self.needs.window, Transitions):
            raise ValueError(
                "expected no --use_lstm with an algorithm that replays single transitions; r2d2 "
                "replays sequences and has memory"
            )
        nets.unwrapped(self.model).epsilon.fill_(config.exploration_start)  # type: ignore[operator]
        self.target = Target(self.model, config.target_interval)
        self.optimizer = ops.make_optimizer(
            "adam", self.model.parameters(), config.learning_rate, epsilon=config.epsilon
        )

    def window(self) -> Transitions | Sequences:
        """Returns what is drawn from the replay: transitions over ``n_step`` steps."""
        c = self.config
        return Transitions(c.n_step, c.discounting, c.reward_clipping == "abs_one")

    def values(self, numbers: Tensor) -> Tensor:
        """Returns Q [T, B, A] of what the network answers, [T, B, A, N]."""
        return numbers.squeeze(-1)

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        """Takes the best action, or a random one as often as exploration says."""
        answer, state = self.ask(model, rows, state, noise=explore is not None)
        q = self.values(answer.numbers)
        action = ops.epsilon_greedy(q, self._share_of_random(answer, explore), answer.allowed)
        return action, self.extras(q, answer, action), state

    def ask(
        self, model: nn.Module, rows: Rollout, state: Tree, noise: bool
    ) -> tuple[nets.ActionValues, Tree]:
        """Returns the answer by which actions are chosen, and the next state."""
        return model(rows, state, noise=noise)

    @torch.no_grad()
    def online(self, rows: Rollout) -> nets.ActionValues:
        """Returns the model's answer to rows without memory, for choosing among next actions."""
        return self.ask(self.model, rows, (), noise=True)[0]

    def extras(self, q: Tensor, answer: nets.ActionValues, action: Tensor) -> dict[str, Tensor]:
        """Returns what acting leaves for learning."""
        return {}

    def taken_and_best(
        self, q: Tensor, answer: nets.ActionValues, action: Tensor
    ) -> dict[str, Tensor]:
        """Returns the value of the action taken, and of the best one: for first priorities."""
        best = ops.greedy(q, answer.allowed)
        return {"q": ops.chosen(q, action), "best_q": ops.chosen(q, best)}

    def best(self, answer: nets.ActionValues) -> Tensor:
        """Returns the greedy actions [T, B] of an answer."""
        return ops.greedy(self.values(answer.numbers), answer.allowed)

    def learn(
        self,
        loss: Tensor,
        priority: Tensor,
        batch: Rollout,
        steps: int,
        metrics: dict[str, Tensor],
    ) -> Update:
        """Returns the update after a gradient step on the losses [B] of a batch.

        Weighs them if they were drawn by priority, and lets learning rate, exploration and target
        network follow the steps.
        """
        c = self.config
        if c.prioritized:
            beta = ops.linear(steps, self.total_steps, c.importance_exponent, 1.0)
            loss = loss * ops.importance_weights(batch.extras["oversampling"][0], beta)
        schedule = ops.SCHEDULES[c.learning_rate_schedule]
        ops.set_learning_rate(self.optimizer, schedule(steps, self.total_steps, c.learning_rate))
        total_loss = loss.mean()
        norm = self.gradient_step(total_loss, self.optimizer, c.grad_norm_clipping)
        self.target.follow(self.model, steps)
        share = ops.linear(
            steps,
            max(1, int(c.exploration_fraction * self.total_steps)),
            c.exploration_start,
            c.exploration_end,
        )
        nets.unwrapped(self.model).epsilon.fill_(share)  # type: ignore[operator]
        good = bool(torch.isfinite(norm))  # else the step was left out, and errors mean nothing
        told = {"total_loss": total_loss, "grad_norm": norm, **metrics}
        return Update(told, priority if good else None)

    def _share_of_random(self, answer: nets.ActionValues, explore: Tensor | None) -> Tensor | float:
        if explore is None:
            return float(self.config.exploration_evaluation)
        if self.config.noisy:
            return 0.0
        if self.config.exploration == "ladder":
            return ops.epsilon_ladder(explore)
        return answer.epsilon

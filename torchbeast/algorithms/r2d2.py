"""R2D2: recurrent replay distributed DQN (Kapturowski et al., ICLR 2019)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from torchbeast import nets, ops
from torchbeast.algorithms.base import Update
from torchbeast.algorithms.q_learning import QLearning, Settings
from torchbeast.data import EnvSpec, Rollout
from torchbeast.data.replay import Sequences


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """R2D2. The loss is a sum over the steps of a sequence and a mean over sequences."""

    unroll_length: int = 40
    """Steps between two stored states of the memory: sequences begin there."""
    sequence_length: int = 80
    """Steps of a sequence that are learned from."""
    burn_in: int = 40
    """Steps before them in which the memory is brought up to date."""
    batch_size: int = 64
    """Sequences in a batch, over all learners."""
    min_replay_size: int = 10_000
    """Environment steps before the first update."""
    replay_ratio: float = 1.0
    """Transitions learned from per environment step."""
    discounting: float = 0.997
    """Discount factor gamma."""
    n_step: int = 5
    """Rewards summed up before a value takes over."""
    double: bool = True
    """The model, not the target network, says which next action is best."""
    dueling: bool = True
    """The network adds a value and advantages that it learns apart."""
    prioritized: bool = True
    """Draw what was surprising more often; how surprising, the actors say first."""
    priority_exponent: float = 0.9
    """How much more often: 0 is uniform, 1 in proportion."""
    importance_exponent: float = 0.6
    """How far losses are corrected for that at the start; rises to 1 at total_steps."""
    priority_eta: float = 0.9
    """Share of the largest error of a sequence in its priority; the mean has the rest."""
    rescale_epsilon: float = 0.001
    """Values are learned in units of h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x."""
    exploration: Literal["schedule", "ladder"] = "ladder"
    """Random actions: fewer and fewer in all environments, or a share of its own for each, from
    0.4 down to 0.4^8."""
    target_interval: int = 500_000
    """Environment steps between two copies of the model into the target network: about 100
    updates with the other defaults; the paper's 2,500 updates are 12.8M steps."""
    epsilon: float = 0.001
    """Adam's epsilon."""
    grad_norm_clipping: float = 40.0
    """Largest global norm of the gradient."""


class R2D2(QLearning):
    """Q-learning with memory, from sequences whose first state was stored when acting."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        super().__init__(config, dataclasses.replace(network, use_lstm=True), spec, total_steps)

    def window(self) -> Sequences:
        """Returns what is drawn: steps to burn in, and steps to learn from."""
        return Sequences(self.config.burn_in, self.config.sequence_length)

    def extras(self, q: Tensor, answer: nets.ActionValues, action: Tensor) -> dict[str, Tensor]:
        """Returns what first priorities are made of."""
        return self.taken_and_best(q, answer, action)

    def initial_priority(self, windows: Rollout) -> Tensor:
        """Returns the priorities [B] of sequences by the values that the actor had."""
        learned = windows.rows(slice(self.config.burn_in, None))
        best_q = learned.extras["best_q"].unsqueeze(-1)
        nothing_to_choose = torch.zeros_like(learned.action, dtype=torch.int64)
        td, valid = self._errors(learned, learned.extras["q"][:-1], best_q, nothing_to_choose)
        return ops.sequence_priority(td, valid, self.config.priority_eta)

    def update(self, batch: Rollout, steps: int) -> Update:
        """One step on the squared errors of rescaled n-step Q-learning (equation 1)."""
        c = self.config
        state = target_state = batch.state
        if c.burn_in:
            before = batch.rows(slice(None, c.burn_in))
            with torch.no_grad():
                _, state = self.model(before, state)
            _, target_state = self.target(before, target_state)
        learned = batch.rows(slice(c.burn_in, None))
        answer, _ = self.model(learned, state)
        target, _ = self.target(learned, target_state)
        q = self.values(answer.numbers)
        taken = ops.chosen(q[:-1], learned.action[:-1])

        best = self.best(answer if c.double else target)
        td, valid = self._errors(learned, taken, self.values(target.numbers), best)
        loss = 0.5 * ops.masked(td, valid).square().sum(0)
        priority = ops.sequence_priority(td, valid, c.priority_eta)
        metrics = {"q": taken.detach().mean(), "td_error": td.detach().abs().mean()}
        return self.learn(loss, priority, batch, steps, metrics)

    def _errors(
        self, rows: Rollout, taken: Tensor, q_target: Tensor, best: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the errors [T, B] of Q-values ``taken`` [T, B], and which steps were chosen."""
        c = self.config
        nxt = rows.rows(slice(1, None))
        valid = (~nxt.first).float()  # nobody chose the step into a new episode
        reward = nxt.reward.clamp(-1, 1) if c.reward_clipping == "abs_one" else nxt.reward
        discount = c.discounting * nxt.discount
        expected = ops.transformed_n_step_targets(
            q_target, best, reward, discount, c.n_step, c.rescale_epsilon, valid
        )
        return expected - taken, valid

"""PQN: parallel Q-learning without replay or target network (arXiv:2407.04811)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.base import Algorithm, Once, Update
from torchbeast.data import EnvSpec, Rollout, Tree, tree_map


@dataclasses.dataclass(frozen=True)
class Config:
    """PQN. The loss is a mean over the transitions of a minibatch."""

    unroll_length: int = 32
    """T: steps in a rollout."""
    batch_size: int = 128
    """B: rollouts in a batch, over all learners; as many environments act."""
    num_epochs: int = 2
    """Passes over each batch."""
    num_minibatches: int = 32
    """Gradient steps in each pass; with an LSTM each takes whole rollouts."""
    discounting: float = 0.99
    """Discount factor gamma."""
    q_lambda: float = 0.65
    """Decay of the returns that mix steps made with values expected."""
    layer_norm: bool = True
    """Normalise each layer: what keeps learning stable without a target network."""
    dueling: bool = False
    """The network adds a value and advantages that it learns apart."""
    reward_clipping: Literal["abs_one", "none"] = "none"
    """abs_one clamps rewards to [-1, 1] in the loss; reported returns are never clipped."""
    exploration_start: float = 1.0
    """Share of random actions at the start."""
    exploration_end: float = 0.05
    """Share of random actions at the end of the schedule."""
    exploration_fraction: float = 0.1
    """Part of total_steps in which the share falls."""
    exploration_evaluation: float = 0.001
    """Share of random actions in evaluation."""
    learning_rate: float = 0.0005
    """RAdam's step size."""
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    """linear: the learning rate falls to 0 at total_steps."""
    epsilon: float = 1e-8
    """RAdam's epsilon."""
    grad_norm_clipping: float = 10.0
    """Largest global norm of the gradient."""
    max_lag: int = 0
    """Most updates that the acting weights may be behind; above 0 actor processes act meanwhile."""


class PQN(Algorithm):
    """Q(lambda) on the newest rollouts of many environments, with a normalised network."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        super().__init__(config, network, spec, total_steps)
        self.needs = Once(config.unroll_length, config.batch_size, config.max_lag)
        self.model = nets.build_q(
            network,
            spec,
            dueling=config.dueling,
            layer_norm=config.layer_norm,
            discounting=config.discounting,
        )
        self.recurrent = nets.is_recurrent(self.model)
        nets.unwrapped(self.model).epsilon.fill_(config.exploration_start)  # type: ignore[operator]
        self.optimizer = ops.make_optimizer(
            "radam", self.model.parameters(), config.learning_rate, epsilon=config.epsilon
        )
        columns = config.batch_size * (1 if self.recurrent else config.unroll_length)
        if config.num_minibatches > columns:
            raise ValueError(
                f"expected --num_minibatches from 1 to {columns}, the "
                f"{'rollouts' if self.recurrent else 'transitions'} of a learner's batch, got "
                f"{config.num_minibatches}; change it or --batch_size"
            )

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        """Takes the best action, or a random one as often as the schedule says."""
        answer, state = model(rows, state)
        q = answer.numbers.squeeze(-1)
        share = self.config.exploration_evaluation if explore is None else answer.epsilon
        action = ops.epsilon_greedy(q, share, answer.allowed)
        best = ops.chosen(q, ops.greedy(q, answer.allowed))
        return action, {"best_q": best}, state

    def update(self, batch: Rollout, steps: int) -> Update:
        """A few passes of minibatches on the squared errors of Q(lambda) (algorithm 1)."""
        c = self.config
        schedule = ops.SCHEDULES[c.learning_rate_schedule]
        ops.set_learning_rate(self.optimizer, schedule(steps, self.total_steps, c.learning_rate))
        span = max(1, int(c.exploration_fraction * self.total_steps))
        share = ops.linear(steps, span, c.exploration_start, c.exploration_end)

        columns = self._columns(batch)
        # A function of the steps: a resumed run shuffles as it would have.
        generator = torch.Generator().manual_seed(steps)
        metrics: list[dict[str, Tensor]] = []
        for _ in range(c.num_epochs):
            for rows, valid, target in self._minibatches(columns, generator):
                metrics.append(self._gradient_step(rows, valid, target))
        nets.unwrapped(self.model).epsilon.fill_(share)  # type: ignore[operator]
        return Update({k: torch.stack([m[k] for m in metrics]).mean() for k in metrics[0]})

    @torch.no_grad()
    def _columns(self, batch: Rollout) -> tuple[Rollout, Tensor, Tensor]:
        """Returns rows, which of them somebody chose, and their targets: [T, B], or [1, T * B]."""
        c = self.config
        now, nxt = batch.rows(slice(None, -1)), batch.rows(slice(1, None))
        valid = (~nxt.first).float()  # nobody chose the step into a new episode
        target = ops.lambda_returns(
            v_t=self._best_q(batch)[1:],
            r_t=self.rewards(batch),
            discount_t=c.discounting * nxt.discount,
            lambda_=c.q_lambda,
            valid=valid,
        )
        rows = now._replace(extras={}, version=())  # type: ignore[arg-type]
        if self.recurrent:
            return rows, valid, target
        # Without memory every chosen transition is a column of its own.
        index = valid.flatten().nonzero().squeeze(1)
        alone = (rows._replace(state=()), valid, target)
        return tree_map(lambda x: x.flatten(0, 1)[index].unsqueeze(0), alone)

    def _best_q(self, batch: Rollout) -> Tensor:
        """Returns max_a Q of all rows [T+1, B]; acting has said it of all but the last."""
        rows = batch if self.recurrent else batch.rows(slice(-1, None))
        answer, _ = self.model(rows, batch.state if self.recurrent else ())
        q = answer.numbers.squeeze(-1)
        best = ops.chosen(q, ops.greedy(q, answer.allowed))
        return best if self.recurrent else torch.cat([batch.extras["best_q"][:-1], best])

    def _minibatches(
        self, columns: tuple[Rollout, Tensor, Tensor], generator: torch.Generator
    ) -> Iterator[tuple[Rollout, Tensor, Tensor]]:
        order = torch.randperm(columns[1].shape[1], generator=generator).to(self.device)
        # Steps that nobody chose may leave fewer transitions than minibatches.
        for index in order.tensor_split(min(self.config.num_minibatches, len(order))):
            yield tree_map(lambda x, index=index: x.index_select(1, index), columns)

    def _gradient_step(self, rows: Rollout, valid: Tensor, target: Tensor) -> dict[str, Tensor]:
        answer, _ = self.model(rows, rows.state)
        q = ops.chosen(answer.numbers.squeeze(-1), rows.action)
        losses = ops.masked(ops.huber(target - q, None), valid)
        loss = losses.sum() / valid.sum().clamp(min=1)
        norm = self.gradient_step(loss, self.optimizer, self.config.grad_norm_clipping)
        return {"total_loss": loss.detach(), "q": q.detach().mean(), "grad_norm": norm}

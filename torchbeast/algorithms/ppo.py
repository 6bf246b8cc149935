"""PPO: proximal policy optimisation (arXiv:1707.06347)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.base import Algorithm, Once, Update
from torchbeast.algorithms.ranks import mean_over_ranks
from torchbeast.data import EnvSpec, Rollout, Tree, tree_map


@dataclasses.dataclass(frozen=True)
class Config:
    """PPO. Losses are means over the transitions of a minibatch."""

    unroll_length: int = 128
    """T: steps in a rollout."""
    batch_size: int = 8
    """B: rollouts in a batch, over all learners; as many environments act."""
    num_epochs: int = 4
    """Passes over each batch."""
    num_minibatches: int = 4
    """Gradient steps in each pass; with an LSTM each takes whole rollouts."""
    discounting: float = 0.99
    """Discount factor gamma."""
    gae_lambda: float = 0.95
    """Decay of generalised advantage estimation (lambda)."""
    reward_clipping: Literal["abs_one", "none"] = "none"
    """abs_one clamps rewards to [-1, 1] in the loss; reported returns are never clipped."""
    clip_ratio: float = 0.2
    """How far the probability of an action may move in one batch before its gradient ends."""
    clip_value: float | None = None
    """How far a value may move in one batch, in units of value; None: any distance."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """linear: clip_ratio falls to 0 at total_steps."""
    normalize_advantages: bool = True
    """Shift and scale the advantages of each minibatch to mean 0 and deviation 1."""
    target_kl: float | None = None
    """End the passes when the policy has moved so far (KL divergence, in nats); None: never."""
    entropy_cost: float = 0.0
    """Weight of the entropy bonus."""
    baseline_cost: float = 0.5
    """Weight of the baseline's loss."""
    learning_rate: float = 0.00025
    """Adam's step size."""
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    """linear: the learning rate falls to 0 at total_steps."""
    epsilon: float = 1e-5
    """Adam's epsilon."""
    grad_norm_clipping: float = 0.5
    """Largest global norm of the gradient."""
    max_lag: int = 0
    """Most updates that the acting weights may be behind; above 0 actor processes act meanwhile."""


class Experience(NamedTuple):
    """What the passes go over: columns [T, B], or single transitions [1, T * B]."""

    rows: Rollout
    valid: Tensor | None  # 0: nobody chose this transition; None: all are chosen
    log_prob: Tensor  # of the policy that acted
    value: Tensor
    advantage: Tensor
    target: Tensor


class PPO(Algorithm):
    """Actor-critic that makes many small steps on each batch, kept near the policy that acted."""

    config_type = Config

    def __init__(
        self, config: Config, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        super().__init__(config, network, spec, total_steps)
        self.needs = Once(config.unroll_length, config.batch_size, config.max_lag)
        self.model = nets.build(network, spec, config.discounting)
        self.recurrent = nets.is_recurrent(self.model)
        self.optimizer = ops.make_optimizer(
            "adam", self.model.parameters(), config.learning_rate, epsilon=config.epsilon
        )
        columns = config.batch_size * (1 if self.recurrent else config.unroll_length)
        if not 1 <= config.num_minibatches <= columns:
            raise ValueError(
                f"expected --num_minibatches from 1 to {columns}, the "
                f"{'rollouts' if self.recurrent else 'transitions'} of a learner's batch"
                f"{' (with memory a minibatch takes whole ones)' if self.recurrent else ''}, got "
                f"{config.num_minibatches}; change it or --batch_size"
            )
        if config.num_epochs < 1:
            raise ValueError(f"expected --num_epochs of at least 1, got {config.num_epochs}")

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        """Samples from the policy; takes its mode in evaluation."""
        output, state = model(rows, state)
        policy = self.model.distribution(output.logits)
        action = policy.mode() if explore is None else policy.sample()
        return action, {"log_prob": policy.log_prob(action), "value": output.value}, state

    def update(self, batch: Rollout, steps: int) -> Update:
        """A few passes of minibatches on the clipped losses (equation 9 of the paper)."""
        c = self.config
        clip_ratio = ops.SCHEDULES[c.clip_schedule](steps, self.total_steps, c.clip_ratio)
        schedule = ops.SCHEDULES[c.learning_rate_schedule]
        learning_rate = schedule(steps, self.total_steps, c.learning_rate)
        ops.set_learning_rate(self.optimizer, learning_rate)

        experience = self._experience(batch)
        # Of its own, and a function of the steps: acting draws the same numbers wherever it runs,
        # and a resumed run shuffles as it would have.
        generator = torch.Generator().manual_seed(steps)
        metrics: list[dict[str, Tensor]] = []
        for _ in range(c.num_epochs):
            for minibatch in self._minibatches(experience, generator):
                metrics.append(self._gradient_step(minibatch, clip_ratio))
            if c.target_kl is not None:
                latest = torch.stack([m["kl"] for m in metrics[-c.num_minibatches :]])
                if mean_over_ranks(latest.mean()) > c.target_kl:
                    break
        averages = {k: torch.stack([m[k] for m in metrics]).mean() for k in metrics[0]}
        return Update(averages | {"epochs": torch.tensor(len(metrics) / c.num_minibatches)})

    @torch.no_grad()
    def _experience(self, batch: Rollout) -> Experience:
        c = self.config
        now, nxt = batch.rows(slice(None, -1)), batch.rows(slice(1, None))
        valid = (~nxt.first).float()  # nobody chose the step into a new episode
        value = self._values(batch)
        advantage = ops.gae(
            v_tm1=value[:-1],
            v_t=value[1:],
            r_t=self.rewards(batch),
            discount_t=c.discounting * nxt.discount,
            lambda_=c.gae_lambda,
            valid=valid,
        )
        rows = now._replace(extras={}, version=())  # type: ignore[arg-type]
        experience = Experience(
            rows, valid, now.extras["log_prob"], value[:-1], advantage, advantage + value[:-1]
        )
        if self.recurrent:
            return experience
        # Without memory every chosen transition is a column of its own.
        chosen = valid.flatten().nonzero().squeeze(1)
        alone = experience._replace(rows=rows._replace(state=()), valid=None)
        return tree_map(lambda x: x.flatten(0, 1)[chosen].unsqueeze(0), alone)

    def _values(self, batch: Rollout) -> Tensor:
        """Returns V of all rows [T+1, B]; acting has said it of all but the last."""
        if self.recurrent:
            return self.model(batch, batch.state)[0].value
        last, _ = self.model(batch.rows(slice(-1, None)), ())
        return torch.cat([batch.extras["value"][:-1], last.value])

    def _minibatches(
        self, experience: Experience, generator: torch.Generator
    ) -> Iterator[Experience]:
        order = torch.randperm(experience.value.shape[1], generator=generator).to(self.device)
        for index in order.tensor_split(self.config.num_minibatches):
            yield tree_map(lambda x, index=index: x.index_select(1, index), experience)

    def _gradient_step(self, minibatch: Experience, clip_ratio: float) -> dict[str, Tensor]:
        c = self.config
        rows, valid, old_log_prob, old_value, advantage, target = minibatch
        if c.normalize_advantages:
            advantage = ops.standardise(advantage, valid)
        output, _ = self.model(rows, rows.state)
        policy = self.model.distribution(output.logits)
        log_ratio = policy.log_prob(rows.action) - old_log_prob

        pg_loss = ops.clipped_surrogate_loss(log_ratio, advantage, clip_ratio, valid)
        if c.clip_value is None:
            baseline_loss = ops.baseline_loss(output.value, target, valid)
        else:
            baseline_loss = ops.clipped_baseline_loss(
                output.value, old_value, target, c.clip_value, valid
            )
        entropy_loss = ops.entropy_loss(policy.entropy(), valid)
        loss = pg_loss + c.baseline_cost * baseline_loss
        if c.entropy_cost:
            loss = loss + c.entropy_cost * entropy_loss

        count = max(1, target.numel()) if valid is None else valid.sum().clamp(min=1)
        total_loss = loss.sum() / count
        norm = self.gradient_step(
            total_loss, self.optimizer, c.grad_norm_clipping, reduction="mean"
        )
        with torch.no_grad():
            kl = ops.masked(ops.approximate_kl(log_ratio), valid)
            return {
                "total_loss": total_loss.detach(),
                "pg_loss": pg_loss.sum() / count,
                "baseline_loss": c.baseline_cost * baseline_loss.sum() / count,
                "entropy_loss": c.entropy_cost * entropy_loss.sum() / count,
                "grad_norm": norm,
                "kl": kl.sum() / count,
            }

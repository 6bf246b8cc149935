"""The contract of an algorithm: how it answers a row, and how it learns from a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from torchbeast import nets, ops
from torchbeast.algorithms.ranks import reduce_gradients, sum_over_ranks
from torchbeast.data import EnvSpec, Rollout, Tree, rollout_spec, zero_rows
from torchbeast.data.replay import Sequences, Transitions

MAX_SKIPPED_UPDATES = 10  # in a row, before a run is called diverged


class Once(NamedTuple):
    """The algorithm learns once from each rollout."""

    unroll_length: int  # T
    batch_size: int  # B of this learner
    max_lag: int | None  # versions that the acting weights may be behind; None: any

    @property
    def steps_per_batch(self) -> float:
        """Returns how many environment steps there are for each update."""
        return self.unroll_length * self.batch_size


class Replayed(NamedTuple):
    """The algorithm learns many times from what a replay keeps."""

    unroll_length: int  # T of the rollouts that acting hands over
    batch_size: int  # windows in a batch of this learner
    window: Transitions | Sequences  # what is drawn
    capacity: int  # environment steps that are kept
    min_size: int  # environment steps before the first update
    ratio: float  # transitions learned from per environment step, kept from both sides
    priority_exponent: float | None = None  # of drawing by priority; None: uniformly
    max_lag: int | None = None  # 0: acting and learning take turns wherever they run

    @property
    def steps_per_batch(self) -> float:
        """Returns how many environment steps there are for each update."""
        return self.window.transitions(self.batch_size) / self.ratio


Needs = Once | Replayed


class Update(NamedTuple):
    """What one update reports: metrics as tensors, and new priorities for a replay."""

    metrics: dict[str, Tensor]
    priority: Tensor | None = None


class Diverged(RuntimeError):
    """Gradients were not finite for many updates in a row."""


class Algorithm(ABC):
    """Base of all algorithms: helpers only, no control flow.

    A subclass names the dataclass of its settings (``config_type``), sets ``model``, ``needs`` and
    its optimizers, and writes ``act`` and ``update``. It knows nothing of processes, buffers or
    logs.

    Args:
        config: of type ``config_type``; ``batch_size`` is this learner's share.
        network: what the subclass builds its model from.
        spec: what the environments show and take.
        total_steps: environment steps of the whole run, for schedules.
    """

    config_type: ClassVar[Any]  # a frozen dataclass; its fields are flags
    config: Any
    spec: EnvSpec
    model: Any  # an nn.Module; Any, because torch types its members as Tensor | Module
    needs: Needs
    device: torch.device = torch.device("cpu")
    _skipped_in_a_row = 0

    def __init__(
        self, config: Any, network: nets.NetworkConfig, spec: EnvSpec, total_steps: int
    ) -> None:
        self.config = config
        self.spec = spec
        self.total_steps = total_steps

    @abstractmethod
    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        """Returns actions [1, B, ...], extras and the next state for rows [1, B].

        ``model`` may be a copy of ``self.model`` that lags behind. ``explore`` [B] says where each
        environment stands among all that explore, from 0 to 1, for algorithms that let some
        explore more than others; None asks for the answer of evaluation.
        """

    @abstractmethod
    def update(self, batch: Rollout, steps: int) -> Update:
        """Learns from a batch [T+1, B] after ``steps`` environment steps: losses to optimizers."""

    def initial_state(self, batch_size: int) -> Tree:
        """Returns the recurrent state before an episode, () if there is none."""
        return self.model.initial_state(batch_size)

    def rollout_spec(self) -> Rollout:
        """Returns the Rollout of ArraySpec that acting with this model makes."""
        row = zero_rows(self.spec, 1)
        state = self.initial_state(1)
        with torch.inference_mode():
            on_device = row._replace(state=state).to(self.device)
            action, extras, _ = self.act(
                self.model, on_device, on_device.state, torch.zeros(1, device=self.device)
            )
        return rollout_spec(row._replace(action=action, extras=extras, state=state))

    def rewards(self, batch: Rollout) -> Tensor:
        """Returns the rewards [T, B] of a batch's transitions, as learning wants them.

        With ``--normalize_rewards`` divided by their running scale, into which these are taken;
        with a setting ``reward_clipping`` of abs_one clamped to [-1, 1].
        """
        reward = nets.normalised_rewards(self.model, batch, sum_over_ranks)
        clipped = getattr(self.config, "reward_clipping", "none") == "abs_one"
        return reward.clamp(-1, 1) if clipped else reward

    def initial_priority(self, windows: Rollout) -> Tensor | None:
        """Returns priorities [B] of windows that a replay has just taken in.

        ``windows`` are as in a batch, without observations: what acting left in ``extras`` must
        suffice. None: the largest priority so far.
        """
        return None

    def observe(self, batch: Rollout) -> None:
        """Takes a batch that was learned from into the statistics of ``--normalize_observations``.

        The learner calls it after ``update``: until then the model sees what it saw when it acted.
        """
        nets.observe(self.model, batch, sum_over_ranks)

    def gradient_step(
        self,
        loss: Tensor,
        optimizer: torch.optim.Optimizer,
        max_norm: float | None,
        reduction: str = "mean",
    ) -> Tensor:
        """Returns the gradient's norm after one step: zero, backward, over ranks, clip, step.

        The gradient reaches the parameters of ``optimizer`` alone, whatever else is in the loss.
        ``reduction`` says whether ``loss`` is a sum or a mean over the batch, so that several
        ranks with a share of the batch each make the step that one rank with all of it makes; a
        mean over chosen transitions only, or standardised within the share, makes it nearly.
        A step whose gradient is not finite is left out, and the optimizer does not see it.

        Raises:
            Diverged: that happened too often in a row.
        """
        given = [p for group in optimizer.param_groups for p in group["params"]]
        parameters = [p for p in given if p.requires_grad]  # a user may have frozen some
        for p in parameters:
            p.grad = None
        loss.backward(inputs=parameters)  # and no others: a policy's loss passes its critics
        reduce_gradients(parameters, average=reduction == "mean")
        norm = ops.clip_grad_norm(parameters, max_norm)
        if torch.isfinite(norm):
            optimizer.step()
            self._skipped_in_a_row = 0
            return norm
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_UPDATES:
            raise Diverged(
                f"the gradient was not finite in {MAX_SKIPPED_UPDATES} updates in a row: lower "
                f"--learning_rate, or look for rewards or observations that are not finite"
            )
        return norm

    def to(self, device: torch.device) -> None:
        """Moves models and tensors to ``device``; call it before the first update."""
        self.device = device
        for name, part in vars(self).items():
            if isinstance(part, nn.Module):
                part.to(device)
            elif isinstance(part, Tensor):
                setattr(self, name, part.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of every attribute that has one: model, optimizers, targets."""
        return {name: part.state_dict() for name, part in self._stateful()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned.

        Raises:
            ValueError: a part is missing.
        """
        for name, part in self._stateful():
            if name not in state:
                raise ValueError(f"expected a part '{name}', got {sorted(state)}")
            part.load_state_dict(state[name])

    def _stateful(self) -> list[tuple[str, Any]]:
        return [(name, part) for name, part in vars(self).items() if hasattr(part, "state_dict")]

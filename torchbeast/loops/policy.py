"""The acting side: weights, recurrent state, and the algorithm's way to answer."""

from __future__ import annotations

import copy
import dataclasses
from typing import Protocol

import torch
from torch import Tensor, nn

from torchbeast.algorithms.base import Algorithm
from torchbeast.data import Tree, tree_leaves, tree_map
from torchbeast.data.slots import Slot
from torchbeast.loops.weights import Weights


class Answers(Protocol):
    """What an actor sees of whoever answers its rows: a ``Policy``, or a ``ServedPolicy``."""

    state: Tree  # recurrent state; () where it is kept elsewhere

    def refresh(self) -> None:
        """Takes the newest weights, before a rollout begins."""

    def answer(self, slot: Slot, t: int) -> Tree:
        """Returns actions [B, ...] as NumPy arrays for row t of ``slot``.

        Writes the answer into that row; with row 0 the recurrent state before it, and the version
        of the oldest weights that answer the rollout.
        """

    def share(self, columns: slice) -> Answers:
        """Returns what answers the environments in ``columns`` only, by the same model."""


@dataclasses.dataclass
class Held:
    """Which weights a model has; of all who answer by it."""

    version: int = 0


class Policy:
    """Answers rows with local weights.

    Args:
        algorithm: whose ``act`` answers.
        model: the model that answers; the algorithm's own, or a copy that ``weights`` fill.
        weights: where newer weights come from.
        num_envs: B, the environments that it answers.
        explore: [B] where each of them stands among all that explore, as ``places`` returns it;
            None for evaluation.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        model: nn.Module,
        weights: Weights,
        num_envs: int,
        explore: Tensor | None,
    ) -> None:
        self._held = Held()
        self.state: Tree = tree_map(
            lambda x: x.to(algorithm.device), algorithm.initial_state(num_envs)
        )
        self.explore = None if explore is None else explore.to(algorithm.device)
        self._algorithm = algorithm
        self._model = model
        self._weights = weights

    def refresh(self) -> None:
        """Takes the newest weights."""
        self._held.version = self._weights.fetch(self._model)

    def answer(self, slot: Slot, t: int) -> Tree:
        """Returns actions [B, ...] as NumPy arrays for row t of ``slot``; writes the answer there.

        With row 0 also the recurrent state before it, and the version.
        """
        if t == 0:
            slot.write_start(self.state, self._held.version)
        with torch.inference_mode():
            row = slot.row(t).to(self._algorithm.device)
            action, extras, self.state = self._algorithm.act(
                self._model, row, self.state, self.explore
            )
            action, extras = tree_map(lambda x: x.cpu().numpy()[0], (action, extras))
        slot.write_answer(t, tree_leaves((action, extras)))
        return action

    def share(self, columns: slice) -> Policy:
        """Returns the policy of the environments in ``columns`` only, with the same model."""
        share = copy.copy(self)
        share.state = tree_map(lambda x: x[:, columns].clone(), self.state)
        share.explore = None if self.explore is None else self.explore[columns]
        return share


def places(count: int, first: int = 0, total: int | None = None) -> Tensor:
    """Returns where environments ``first`` .. ``first + count - 1`` of ``total`` stand, [count].

    The first of all stands at 0, the last at 1.
    """
    last = max(1, (count if total is None else total) - 1)
    return torch.arange(first, first + count) / last

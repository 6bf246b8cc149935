"""The acting side: weights, recurrent state, and the algorithm's way to answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchbeast.algorithms.base import Algorithm
from torchbeast.data import Rollout, Tree, tree_map
from torchbeast.loops.weights import Weights


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
        self.version = 0
        self.state: Tree = tree_map(
            lambda x: x.to(algorithm.device), algorithm.initial_state(num_envs)
        )
        self.explore = None if explore is None else explore.to(algorithm.device)
        self._algorithm = algorithm
        self._model = model
        self._weights = weights

    def refresh(self) -> None:
        """Takes the newest weights."""
        self.version = self._weights.fetch(self._model)

    def answer(self, row: Rollout) -> tuple[Tree, dict[str, Any]]:
        """Returns actions [B, ...] and extras [B, ...] as NumPy arrays for a row [1, B]."""
        with torch.inference_mode():
            row = row.to(self._algorithm.device)
            action, extras, self.state = self._algorithm.act(
                self._model, row, self.state, self.explore
            )
            return tree_map(lambda x: x.cpu().numpy()[0], (action, extras))


def places(count: int, first: int = 0, total: int | None = None) -> Tensor:
    """Returns where environments ``first`` .. ``first + count - 1`` of ``total`` stand, [count].

    The first of all stands at 0, the last at 1.
    """
    last = max(1, (count if total is None else total) - 1)
    return torch.arange(first, first + count) / last

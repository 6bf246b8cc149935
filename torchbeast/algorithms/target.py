"""Target networks: copies of a model, towards whose answers it learns; no gradient reaches them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Frozen(nn.Module):
    """A copy of a model, at first equal to it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the copy answers."""
        return self.model(*args, **kwargs)


class Target(Frozen):
    """A copy that becomes equal to the model from time to time.

    It lies in the checkpoint with the step of its last copy.

    Args:
        model: what it follows.
        interval: environment steps between copies.
    """

    copied_at: Tensor

    def __init__(self, model: nn.Module, interval: int) -> None:
        super().__init__(model)
        self.interval = interval
        self.register_buffer("copied_at", torch.zeros((), dtype=torch.int64))
        self._copied_at = 0  # the same number, which no GPU has to be asked for

    @torch.no_grad()
    def follow(self, model: nn.Module, steps: int) -> None:
        """Copies ``model`` if ``interval`` steps have passed since the last time."""
        if steps - self._copied_at < self.interval:
            return
        self._copied_at = steps
        self.copied_at.fill_(steps)
        ours, theirs = self.model.state_dict(), model.state_dict()
        torch._foreach_copy_(list(ours.values()), list(theirs.values()))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Takes back the copy and when it was made."""
        result = super().load_state_dict(*args, **kwargs)
        self._copied_at = int(self.copied_at)
        return result


class MovingTarget(Frozen):
    """A copy that comes nearer to the model by and by: target += rate (model - target).

    Polyak averaging, DDPG, arXiv:1509.02971 algorithm 1.

    Args:
        model: what it follows; its parameters only.
        rate: tau.
    """

    def __init__(self, model: nn.Module, rate: float) -> None:
        super().__init__(model)
        self.rate = rate

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Comes nearer to ``model``."""
        ours: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(ours, theirs, self.rate)

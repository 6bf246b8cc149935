"""Small fully connected networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers, each followed by tanh or relu; [..., I] to [..., hidden_sizes[-1]].

    Initialised orthogonally with gain sqrt(2), as in the common PPO recipes.
    """

    def __init__(
        self, in_features: int, hidden_sizes: Sequence[int], activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = getattr(torch, activation)
        sizes = [in_features, *hidden_sizes]
        self.layers = nn.ModuleList(
            orthogonal(nn.Linear(before, after), math.sqrt(2))
            for before, after in itertools.pairwise(sizes)
        )
        self.out_features = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Returns features [..., F] of [..., I]."""
        for layer in self.layers:
            x = self.activation(layer(x))
        return x


class EncoderMLP(nn.Module):
    """An encoder and an MLP behind it."""

    def __init__(
        self, encoder: nn.Module, hidden_sizes: Sequence[int], activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mlp = MLP(int(encoder.out_features), hidden_sizes, activation)  # type: ignore
        self.out_features = self.mlp.out_features

    def forward(self, x: Any) -> Tensor:
        """Returns features [T, B, F] of observations [T, B, ...]."""
        return self.mlp(self.encoder(x))


M = TypeVar("M", bound=nn.Module)


def orthogonal(module: M, gain: float) -> M:
    """Returns ``module`` with orthogonal weights and zero biases in its layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # In memory of its own: the start wants a plain layout, convolutions keep theirs.
            layer.weight.data.copy_(nn.init.orthogonal_(torch.empty(layer.weight.shape), gain))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module

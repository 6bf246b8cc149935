"""Small fully connected networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional


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
            # Without the call of the module, which costs as much as a small product.
            x = self.activation(functional.linear(x, layer.weight, layer.bias))  # type: ignore
        return x


class TwinMLP(nn.Module):
    """Two MLPs of one shape that see the same; [T, B, I] to two of [T, B, hidden_sizes[-1]].

    Small products cost their calls, so each layer of both is one product. Initialised as MLP.
    """

    def __init__(
        self, in_features: int, hidden_sizes: Sequence[int], activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = getattr(torch, activation)
        sizes = [in_features, *hidden_sizes]
        self.layers = nn.ModuleList(
            TwinLinear(before, after) for before, after in itertools.pairwise(sizes)
        )
        self.out_features = sizes[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns two features [T, B, F] of [T, B, I]."""
        flat = x.flatten(0, 1)
        h = flat.expand(2, *flat.shape)
        for layer in self.layers:
            h = self.activation(torch.baddbmm(layer.bias, h, layer.weight))  # type: ignore
        one, other = h.view(2, *x.shape[:2], self.out_features).unbind()
        return one, other


class TwinLinear(nn.Module):
    """The weights [2, I, O] and biases [2, 1, O] of two linear layers, as MLP's begin."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        both = [orthogonal(nn.Linear(in_features, out_features), math.sqrt(2)) for _ in "12"]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().t() for layer in both]))
        self.bias = nn.Parameter(torch.zeros(2, 1, out_features))


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

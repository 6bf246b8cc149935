"""Small fully connected networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchbeast.nets.noisy import NoisyLinear, linear


class MLP(nn.Module):
    """Linear layers, each followed by tanh or relu; [..., I] to [..., hidden_sizes[-1]].

    Args:
        in_features: I.
        hidden_sizes: units of each layer.
        activation: tanh or relu.
        gain: of orthogonal weights at the start, sqrt(2) as in the common PPO recipes; None leaves
            PyTorch's own start.
        layer_norm: a LayerNorm before each activation.
        noisy: the layers are NoisyLinear.
    """

    def __init__(
        self,
        in_features: int,
        hidden_sizes: Sequence[int],
        activation: str = "tanh",
        gain: float | None = math.sqrt(2),
        layer_norm: bool = False,
        noisy: bool = False,
    ) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = getattr(torch, activation)
        sizes = [in_features, *hidden_sizes]
        make = NoisyLinear if noisy else nn.Linear
        self.layers = nn.ModuleList()
        for before, after in itertools.pairwise(sizes):
            layer = make(before, after)
            self.layers.append(layer if gain is None else orthogonal(layer, gain))
        self.norms = nn.ModuleList(map(nn.LayerNorm, hidden_sizes)) if layer_norm else None
        self.out_features = sizes[-1]

    def forward(self, x: Tensor, noise: bool = True) -> Tensor:
        """Returns features [..., F] of [..., I]; of noisy layers the means without ``noise``."""
        if self.norms is None:
            for layer in self.layers:
                x = self.activation(linear(layer, x, noise))
        else:
            for layer, norm in zip(self.layers, self.norms, strict=True):
                x = self.activation(norm(linear(layer, x, noise)))
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

    def __init__(self, encoder: nn.Module, mlp: MLP) -> None:
        super().__init__()
        self.encoder = encoder
        self.mlp = mlp
        self.out_features = mlp.out_features

    def forward(self, x: Any) -> Tensor:
        """Returns features [T, B, F] of observations [T, B, ...]."""
        return self.mlp.forward(self.encoder(x))  # without the call, as in ``linear``


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

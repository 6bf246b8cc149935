"""The judging half of an actor-critic: the values of actions, by several networks at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbeast.nets.policy import BOTTLENECK


class Critics(nn.Module):
    """K networks of one shape that judge actions; features [B, F] and actions [B, D] to [K, B, N].

    Products this small cost their calls, so each layer of all K is one product.

    Args:
        features: F.
        action_size: D; 0 where the N numbers are of the N discrete actions.
        numbers: N.
        hidden: units of the hidden layers.
        activation: tanh or relu.
        members: K.
        layer_norm: a LayerNorm before each activation.
        bottleneck: what comes before them, for pictures; the critics share it.
        bf16: all but the last layer computes in bfloat16.
    """

    def __init__(
        self,
        features: int,
        action_size: int,
        numbers: int,
        hidden: Sequence[int],
        activation: str,
        members: int,
        layer_norm: bool = False,
        bottleneck: nn.Module | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.bf16 = bf16
        self.activation: Callable[[Tensor], Tensor] = getattr(torch, f"{activation}_")
        self.bottleneck = bottleneck
        before = (features if bottleneck is None else BOTTLENECK) + action_size
        self.layers = nn.ModuleList(
            ParallelLinear(members, i, o) for i, o in itertools.pairwise([before, *hidden])
        )
        self.norms = (
            nn.ModuleList(ParallelLayerNorm(members, units) for units in hidden)
            if layer_norm
            else None
        )
        self.last = ParallelLinear(members, hidden[-1] if hidden else before, numbers)

    def forward(
        self,
        features: Tensor,
        action: Tensor | None,
        *,
        members: int | None = None,
        frozen: bool = False,
    ) -> Tensor:
        """Returns the numbers [K, B, N] of actions [B, D] at features [B, F].

        ``members`` asks only the first so many. No gradient reaches the weights of ``frozen``
        critics.
        """
        count = members or self.last.members
        if not self.bf16:
            return self.last.forward(self._hidden(features, action, count, frozen), frozen)
        with torch.autocast(features.device.type, torch.bfloat16):
            x = self._hidden(features, action, count, frozen).float()
        return self.last.forward(x, frozen)

    def _hidden(self, x: Tensor, action: Tensor | None, members: int, frozen: bool) -> Tensor:
        if self.bottleneck is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                x = self.bottleneck(x)
        if action is not None:
            x = torch.cat([x, action], -1)
        x = x.expand(members, *x.shape)
        for i, layer in enumerate(self.layers):
            x = layer.forward(x, frozen)  # without the call of the module, as in ``linear``
            x = self.activation(x if self.norms is None else self.norms[i].forward(x, frozen))
        return x


class ParallelLinear(nn.Module):
    """K linear layers side by side, which begin as PyTorch's do; [K, B, I] to [K, B, O]."""

    def __init__(self, members: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.members = members
        bound = 1 / math.sqrt(in_features)
        weight = torch.empty(members, in_features, out_features).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(members, 1, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Returns [k, B, O] of [k, B, I], by the first k of the layers."""
        weight, bias = _of(self, len(x), frozen)
        if weight.shape[-1] == 1:  # a product and a sum take less than half of bmm's time here
            return (x * weight.transpose(1, 2)).sum(-1, keepdim=True) + bias
        return torch.baddbmm(bias, x, weight)


class ParallelLayerNorm(nn.Module):
    """A LayerNorm with scale and shift for each of K networks; [K, B, F] to [K, B, F]."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, features))
        self.bias = nn.Parameter(torch.zeros(members, 1, features))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Returns [k, B, F] of [k, B, F], by the first k of the norms."""
        weight, bias = _of(self, len(x), frozen)
        return torch.addcmul(bias, functional.layer_norm(x, x.shape[-1:]), weight)


def _of(layer: ParallelLinear | ParallelLayerNorm, members: int, frozen: bool) -> list[Tensor]:
    """Returns weight and bias of the first ``members``; no gradient reaches frozen ones."""
    pair: list[Tensor] = [layer.weight, layer.bias]
    if frozen:
        pair = [x.detach() for x in pair]
    return pair if members == len(layer.weight) else [x[:members] for x in pair]

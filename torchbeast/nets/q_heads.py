"""What comes last in Q-learning: from features to the numbers of each action.

The numbers [..., A, N] of an action are its value (N = 1), the logits of a categorical distribution
over returns (C51, arXiv:1707.06887), or quantiles of one (QR-DQN, arXiv:1710.10044, and IQN).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbeast.nets.mlp import MLP
from torchbeast.nets.noisy import NoisyLinear, linear

COSINES = 64  # of a quantile fraction in IQN


class QHead(nn.Module):
    """The numbers of each action; [..., F] to [..., A, N].

    Args:
        features: F.
        actions: A.
        numbers: N.
        hidden: units of the hidden layers.
        activation: tanh or relu, what follows each hidden layer.
        dueling: a value and the advantages of the actions have hidden layers of their own.
        noisy: all linear layers are NoisyLinear.
        layer_norm: a LayerNorm before each activation.
    """

    def __init__(
        self,
        features: int,
        actions: int,
        numbers: int = 1,
        hidden: Sequence[int] = (),
        activation: str = "relu",
        dueling: bool = False,
        noisy: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()

        def stream(outputs: int) -> Stream:
            return Stream(features, outputs, hidden, activation, noisy, layer_norm)

        self.shape = (actions, numbers)
        self.actions = stream(actions * numbers)
        self.value = stream(numbers) if dueling else None

    def forward(self, x: Tensor, noise: bool = True) -> Tensor:
        """Returns numbers [..., A, N] of features [..., F]; without ``noise`` by mean weights."""
        # Without the calls of the modules, as in ``linear``.
        numbers = self.actions.forward(x, noise).unflatten(-1, self.shape)
        if self.value is None:
            return numbers
        return duel(self.value.forward(x, noise).unsqueeze(-2), numbers)


class Stream(MLP):
    """Hidden layers and a linear one behind them; [..., F] to [..., O]."""

    def __init__(
        self,
        features: int,
        outputs: int,
        hidden: Sequence[int],
        activation: str,
        noisy: bool,
        layer_norm: bool,
    ) -> None:
        super().__init__(features, hidden, activation, None, layer_norm, noisy)
        self.last = (NoisyLinear if noisy else nn.Linear)(self.out_features, outputs)
        self.out_features = outputs

    def forward(self, x: Tensor, noise: bool = True) -> Tensor:
        """Returns [..., O] of features [..., F]; without ``noise`` by mean weights."""
        return linear(self.last, super().forward(x, noise), noise)


class QuantileHead(nn.Module):
    """Quantiles of the return of each action, for any fractions of it: IQN, arXiv:1806.06923.

    Features are multiplied with those of the fraction tau, and a QHead of one number follows
    (equation 4 and above it).

    Args:
        head: from the product [..., K, F] to the numbers [..., K, A, 1].
        features: F.
    """

    order: Tensor

    def __init__(self, head: QHead, features: int) -> None:
        super().__init__()
        self.head = head
        self.phi = nn.Linear(COSINES, features)
        self.register_buffer("order", torch.arange(0.0, COSINES), persistent=False)

    def forward(self, x: Tensor, taus: Tensor, noise: bool = True) -> Tensor:
        """Returns the quantiles [..., A, K] at ``taus`` [..., K], of features [..., F]."""
        cosines = torch.cos((math.pi * taus).unsqueeze(-1) * self.order)
        phi = functional.relu_(linear(self.phi, cosines, noise))
        return self.head(x.unsqueeze(-2) * phi, noise).squeeze(-1).transpose(-1, -2)


def duel(value: Tensor, advantage: Tensor) -> Tensor:
    """Returns value [..., 1, N] + advantage [..., A, N] - its mean over actions, [..., A, N].

    arXiv:1511.06581 equation 9; for N numbers each has its own value and mean, as in Rainbow
    (arXiv:1710.02298).
    """
    return value + advantage - advantage.mean(-2, keepdim=True)

"""Policies beside critics: from rows of a rollout to the numbers of a policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchbeast.data import Rollout, Tree
from torchbeast.data.replay import stacked
from torchbeast.nets.mlp import MLP

BOTTLENECK = 50  # features that a policy or a critic takes from a picture, as in DrQ


class PolicyNet(nn.Module):
    """Encoder and policy: rows in, the numbers of a policy out. It has no memory.

    The buffer ``random`` is the share of actions drawn uniformly. It is 1 until learning begins,
    and travels with the weights to whoever acts.

    Args:
        encoder: observations [T, B, ...] to features [T, B, F]; critics share it.
        policy: features [..., F] to numbers [..., P].
        bf16: the encoder computes in bfloat16.
    """

    random: Tensor

    def __init__(self, encoder: nn.Module, policy: nn.Module, bf16: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.policy = policy
        self.bf16 = bf16
        self.register_buffer("random", torch.ones(()))

    def forward(self, rows: Rollout, state: Tree, *, encode: bool = False) -> tuple[Tensor, Tree]:
        """Returns the numbers [T, B, P] of rows [T, B], or with ``encode`` features [T, B, F]."""
        features = self._encode(stacked(rows.obs))
        return (features if encode else self.policy(features)), state

    def _encode(self, obs: Tree) -> Tensor:
        if not self.bf16:
            return self.encoder(obs)
        with torch.autocast(self.random.device.type, torch.bfloat16):
            return self.encoder(obs).float()

    def initial_state(self, batch_size: int) -> Tree:
        """Returns (): there is no memory."""
        return ()


class PolicyMLP(nn.Module):
    """Hidden layers and a linear one behind them; [..., F] to [..., P].

    Args:
        features: F.
        outputs: P.
        hidden: units of the hidden layers.
        activation: tanh or relu.
        bottleneck: what comes before them, for pictures.
        bf16: the hidden layers compute in bfloat16.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        hidden: Sequence[int],
        activation: str,
        bottleneck: nn.Module | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.hidden = MLP(features if bottleneck is None else BOTTLENECK, hidden, activation, None)
        self.last = nn.Linear(self.hidden.out_features, outputs)
        self.bf16 = bf16

    def forward(self, x: Tensor) -> Tensor:
        """Returns numbers [..., P] of features [..., F]."""
        if not self.bf16:
            return self.last(self._hidden(x))
        with torch.autocast(x.device.type, torch.bfloat16):
            x = self._hidden(x).float()
        return self.last(x)

    def _hidden(self, x: Tensor) -> Tensor:
        return self.hidden(x if self.bottleneck is None else self.bottleneck(x))


class Bottleneck(nn.Sequential):
    """Few features of the many that convolutions give; [..., F] to [..., 50] in -1 .. 1.

    DrQ, arXiv:2004.13649 appendix B. Policy and critics have one each.
    """

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, BOTTLENECK), nn.LayerNorm(BOTTLENECK), nn.Tanh())

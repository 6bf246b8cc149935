"""The network of Q-learning: the values of all actions from rows of a rollout."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchbeast.data import Rollout, Tree
from torchbeast.data.replay import stacked
from torchbeast.nets import masks
from torchbeast.nets.q_heads import QHead, QuantileHead
from torchbeast.nets.recurrent import ResetLSTM


class ActionValues(NamedTuple):
    """What the network answers."""

    numbers: Tensor  # [T, B, A, N]   of each action: a value, logits or quantiles of the return
    allowed: Tensor | None  # [T, B, A] bool  which actions may be chosen; None: all
    epsilon: Tensor  # []  how often to act at random


class QNet(nn.Module):
    """Encoder, memory and head: rows in, the numbers of each action and the next state out.

    The buffer ``epsilon`` is the rate of exploration. It starts at 1, learning sets it, and it
    travels with the weights to whoever acts.

    Args:
        encoder: observations [T, B, ...] to features [T, B, F].
        previous: encodes the previous action for the memory; None leaves action and reward out.
        lstm: the memory, if any. Rewards reach it as they are, unclipped, as in R2D2.
        head: QuantileHead if the answer depends on ``taus``, else QHead.
    """

    epsilon: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        previous: nn.Module | None,
        lstm: ResetLSTM | None,
        head: QHead | QuantileHead,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.previous = previous
        self.lstm = lstm
        self.head = head
        self.register_buffer("epsilon", torch.ones(()))
        self.masked = False  # whether the observations carry a mask of the allowed actions
        self.bf16 = False  # whether the encoder computes in bfloat16

    def forward(
        self, rows: Rollout, state: Tree, *, noise: bool = True, taus: Tensor | None = None
    ) -> tuple[ActionValues, Tree]:
        """Returns the numbers [T, B, A, N] of rows [T, B], and the state after them.

        Args:
            rows: [T, B].
            state: before row 0.
            noise: noisy layers draw their weights, else they take the means.
            taus: [T, B, K] fractions in 0..1 whose quantiles are wanted, where the head is a
                QuantileHead.
        """
        obs: Tree = rows.obs if isinstance(rows.obs, Tensor) else stacked(rows.obs)
        obs, mask = masks.split(obs) if self.masked else (obs, None)
        x = self._encode(obs)
        if self.previous is not None:
            x = torch.cat([x, rows.reward.unsqueeze(-1), self.previous(rows.prev_action)], -1)
        if self.lstm is not None:
            x, state = self.lstm.unroll(x, rows.first, state)
        numbers = self.head(x, noise) if taus is None else self.head(x, taus, noise)
        allowed = None if mask is None else mask != 0
        return ActionValues(numbers, allowed, self.epsilon), state

    def _encode(self, obs: Tree) -> Tensor:
        if not self.bf16:
            return self.encoder(obs)
        with torch.autocast(next(self.parameters()).device.type, torch.bfloat16):
            return self.encoder(obs).float()

    def initial_state(self, batch_size: int) -> Tree:
        """Returns the state before an episode: (h, c), each [N, B, H], or ()."""
        return () if self.lstm is None else self.lstm.initial_state(batch_size)

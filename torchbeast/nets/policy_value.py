"""The network of the policy gradients: a policy and a value from rows of a rollout."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchbeast.data import Rollout, Tree
from torchbeast.nets import masks
from torchbeast.nets.heads import Head
from torchbeast.nets.mlp import TwinMLP
from torchbeast.nets.recurrent import ResetLSTM
from torchbeast.ops.distributions import Distribution, mask_logits


class PolicyValue(NamedTuple):
    """What the network answers."""

    logits: Tensor  # [T, B, P]  what the policy's distribution is made of
    value: Tensor  # [T, B]


class PolicyValueNet(nn.Module):
    """A policy and a value: encoder, (previous action and reward, memory,) two heads.

    Args:
        encoder: observations [T, B, ...] to features [T, B, F].
        previous: encodes the previous action for the core; None leaves action and reward out.
        lstm: the memory, if any.
        trunks: layers between core and heads, which policy and value do not share.
        policy: the policy head.
        value: the value head, to [..., 1].
    """

    def __init__(
        self,
        encoder: nn.Module,
        previous: nn.Module | None,
        lstm: ResetLSTM | None,
        trunks: TwinMLP | None,
        policy: Head,
        value: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.previous = previous
        self.lstm = lstm
        self.trunks = trunks
        self.policy = policy
        self.value = value
        self.masked = False  # whether the observations carry a mask of the allowed actions
        self.bf16 = False  # whether the encoder computes in bfloat16

    def forward(self, rows: Rollout, state: Tree) -> tuple[PolicyValue, Tree]:
        """Returns logits [T, B, P] and values [T, B] of rows [T, B], and the state after them."""
        obs, mask = masks.split(rows.obs) if self.masked else (rows.obs, None)
        x = self._encode(obs)
        if self.previous is not None:
            reward = rows.reward.clamp(-1, 1).unsqueeze(-1)
            x = torch.cat([x, reward, self.previous(rows.prev_action)], -1)
        if self.lstm is not None:
            x, state = self.lstm.unroll(x, rows.first, state)
        for_policy, for_value = (x, x) if self.trunks is None else self.trunks(x)
        logits = self.policy(for_policy)
        if mask is not None:
            logits = mask_logits(logits, mask)
        return PolicyValue(logits, self.value(for_value).squeeze(-1)), state

    def _encode(self, obs: Tree) -> Tensor:
        if not self.bf16:
            return self.encoder(obs)
        with torch.autocast(next(self.parameters()).device.type, torch.bfloat16):
            return self.encoder(obs).float()

    def initial_state(self, batch_size: int) -> Tree:
        """Returns the state before an episode: (h, c), each [N, B, H], or ()."""
        return () if self.lstm is None else self.lstm.initial_state(batch_size)

    def distribution(self, logits: Tensor) -> Distribution:
        """Returns the distribution over actions that ``logits`` [..., P] stand for."""
        return self.policy.distribution(logits)

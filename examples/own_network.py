"""Networks of your own, in one file outside the package.

torchbeast train ppo --env MinAtar/Breakout-v1 --network examples/own_network.py:Encoder
torchbeast train ppo --env CartPole-v1 --network examples/own_network.py:Model
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from torchbeast.data import EnvSpec, Rollout
from torchbeast.nets import PolicyValue
from torchbeast.ops import Categorical


class Encoder(nn.Module):
    """Features of observations; memory (--use_lstm) and heads are put behind it.

    What makes it an encoder is ``out_features``. It fits every action space.
    """

    out_features = 128

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        assert spec.observation.shape is not None
        size = math.prod(spec.observation.shape)
        self.layers = nn.Sequential(
            nn.Linear(size, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
        )

    def forward(self, obs: Tensor) -> Tensor:
        """Returns features [T, B, 128] of observations [T, B, ...]."""
        return self.layers(obs.flatten(2).float())


class Model(nn.Module):
    """A whole model: everything between a row and its answer."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        space: Any = spec.action
        assert spec.observation.shape is not None
        self.trunk = nn.Sequential(nn.Linear(spec.observation.shape[0], 64), nn.Tanh())
        self.policy = nn.Linear(64, int(space.n))
        self.value = nn.Linear(64, 1)

    def forward(self, rows: Rollout, state: tuple[()]) -> tuple[PolicyValue, tuple[()]]:
        """Returns logits [T, B, A] and values [T, B] of rows [T, B], and the state after them."""
        x = self.trunk(rows.obs)
        return PolicyValue(self.policy(x), self.value(x).squeeze(-1)), state

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Returns the recurrent state before an episode: this model has no memory."""
        return ()

    def distribution(self, logits: Tensor) -> Categorical:
        """Returns the distribution over actions that logits [..., A] stand for."""
        return Categorical(logits)

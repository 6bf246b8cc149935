"""The network of the policy gradients: a policy and a value from rows of a rollout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from torchbeast.data import EnvSpec, Rollout, Tree
from torchbeast.nets.atari import deep_torso, shallow_torso
from torchbeast.nets.encoders import (
    MIN_IMAGE_SIDE,
    TreeEncoder,
    action_encoder,
    is_box_image,
    leaves,
)
from torchbeast.nets.heads import Distribution, Head, policy_head
from torchbeast.nets.mlp import MLP, EncoderMLP, orthogonal
from torchbeast.nets.recurrent import ResetLSTM


@dataclass(frozen=True)
class NetworkConfig:
    """What network answers and learns."""

    network: Literal["auto", "shallow", "deep", "mlp"] = "auto"
    """Convolutions for images (shallow, deep) or an mlp; auto: shallow for images, else mlp."""
    use_lstm: bool = False
    """Put an LSTM behind the network, so that it can remember."""
    lstm_size: int = 0
    """Units of the LSTM; 0: 256 behind convolutions, the last hidden size behind an mlp."""
    lstm_layers: int = 1
    """Layers of the LSTM."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each layer of the mlp."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: the encoder computes in bfloat16 (GPUs, CPUs with AMX); weights stay float32."""


class PolicyValue(NamedTuple):
    """What the network answers."""

    logits: Tensor  # [T, B, P]
    value: Tensor  # [T, B]


class PolicyValueNet(nn.Module):
    """A policy and a value: encoder, (previous action and reward, memory,) two heads.

    Args:
        encoder: observations [T, B, ...] to features [T, B, F].
        previous: encodes the previous action for the core; None leaves action and reward out.
        lstm: the memory, if any.
        trunk: layers between core and policy head, which the value does not share.
        policy: the policy head.
        value: the value head, to [..., 1], with layers of its own where the policy has a trunk.
    """

    def __init__(
        self,
        encoder: nn.Module,
        previous: nn.Module | None,
        lstm: ResetLSTM | None,
        trunk: nn.Module | None,
        policy: Head,
        value: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.previous = previous
        self.lstm = lstm
        self.trunk = trunk
        self.policy = policy
        self.value = value
        self.bf16 = False  # whether the encoder computes in bfloat16

    def forward(self, rows: Rollout, state: Tree) -> tuple[PolicyValue, Tree]:
        """Returns logits [T, B, P] and values [T, B] of rows [T, B], and the state after them."""
        x = self._encode(rows.obs)
        if self.previous is not None:
            reward = rows.reward.clamp(-1, 1).unsqueeze(-1)
            x = torch.cat([x, reward, self.previous(rows.prev_action)], -1)
        if self.lstm is not None:
            x, state = self.lstm.unroll(x, rows.first, state)
        logits = self.policy(x if self.trunk is None else self.trunk(x))
        return PolicyValue(logits, self.value(x).squeeze(-1)), state

    def _encode(self, obs: Tree) -> Tensor:
        if not self.bf16:
            return self.encoder(obs)
        with torch.autocast(next(self.parameters()).device.type, torch.bfloat16):
            return self.encoder(obs).float()

    def initial_state(self, batch_size: int) -> Tree:
        """Returns the state before an episode: (h, c), each [N, B, H], or ()."""
        return () if self.lstm is None else self.lstm.initial_state(batch_size)

    def distribution(self, logits: Tensor) -> Distribution:
        """Returns the distribution over actions that logits [..., P] stand for."""
        return self.policy.distribution(logits)


def build(config: NetworkConfig, spec: EnvSpec) -> PolicyValueNet:
    """Returns a fresh network for an environment.

    Raises:
        ValueError: the network does not fit the observations, or no head fits the actions.
    """
    policy_head(1, spec.action)  # an unknown action space is an error before anything is built
    network = choose(config.network, spec.observation)
    net = _build_mlp(config, spec) if network == "mlp" else _build_conv(config, spec, network)
    net.bf16 = config.precision == "bf16"
    return net


def _build_conv(config: NetworkConfig, spec: EnvSpec, network: str) -> PolicyValueNet:
    torso: Callable[[int, int, int], nn.Module]
    torso, side = (shallow_torso, MIN_IMAGE_SIDE) if network == "shallow" else (deep_torso, 1)
    encoder = TreeEncoder(spec.observation, torso, lambda leaf: is_box_image(leaf, side))
    previous = action_encoder(spec.action)
    core_size = encoder.out_features + 1 + int(previous.out_features)  # type: ignore[arg-type]
    lstm = _build_lstm(config, core_size, 256)
    features = core_size if lstm is None else lstm.hidden_size
    head = policy_head(features, spec.action)
    value = nn.Linear(features, 1)
    if network == "shallow":
        # With PyTorch's own start, Pong stays at -20 for more than a million steps.
        orthogonal(encoder, math.sqrt(2))
        orthogonal(head, 0.01)
        orthogonal(value, 1.0)
    return PolicyValueNet(encoder, previous, lstm, None, head, value)


def choose(network: str, space: spaces.Space[Any]) -> str:
    """Returns which network serves observations of ``space``: shallow, deep or mlp.

    Raises:
        ValueError: ``network`` needs an image and there is none, or none large enough.
    """
    images = [leaf for _, leaf in leaves(space) if is_box_image(leaf)]
    large = [leaf for leaf in images if is_box_image(leaf, MIN_IMAGE_SIDE)]
    if network == "auto":
        return "shallow" if large else "mlp"
    if network in ("shallow", "deep") and not images:
        raise ValueError(
            f"expected image observations for --network {network}, got {space}; "
            f"use --network mlp or auto"
        )
    if network == "shallow" and not large:
        raise ValueError(
            f"expected images of at least {MIN_IMAGE_SIDE}x{MIN_IMAGE_SIDE} pixels for "
            f"--network shallow, got {space}; use --network deep, mlp or auto"
        )
    return network


def _build_mlp(config: NetworkConfig, spec: EnvSpec) -> PolicyValueNet:
    flat = TreeEncoder(spec.observation)
    if not config.use_lstm:
        # Without memory the policy sees the observation alone, and shares nothing with the value.
        trunk = MLP(flat.out_features, config.hidden_sizes)
        value_trunk = MLP(flat.out_features, config.hidden_sizes)
        head = policy_head(trunk.out_features, spec.action)
        value = orthogonal(nn.Linear(value_trunk.out_features, 1), 1.0)
        net = PolicyValueNet(flat, None, None, trunk, head, nn.Sequential(value_trunk, value))
    else:
        encoder = EncoderMLP(flat, config.hidden_sizes)
        previous = action_encoder(spec.action)
        core_size = encoder.out_features + 1 + int(previous.out_features)  # type: ignore[arg-type]
        lstm = _build_lstm(config, core_size, encoder.out_features)
        assert lstm is not None
        lstm.remember()
        head = policy_head(lstm.hidden_size, spec.action)
        value = orthogonal(nn.Linear(lstm.hidden_size, 1), 1.0)
        net = PolicyValueNet(encoder, previous, lstm, None, head, value)
    orthogonal(head, 0.01)
    return net


def _build_lstm(config: NetworkConfig, in_features: int, own_size: int) -> ResetLSTM | None:
    if not config.use_lstm:
        return None
    return ResetLSTM(in_features, config.lstm_size or own_size, config.lstm_layers)

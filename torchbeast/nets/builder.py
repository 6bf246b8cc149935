"""From settings and an environment to a fresh network."""

from __future__ import annotations

import math

from torch import nn

from torchbeast import user_code
from torchbeast.data import EnvSpec
from torchbeast.nets import user
from torchbeast.nets.atari import deep_torso, shallow_torso, small_torso
from torchbeast.nets.config import MIN_SIDE, NetworkConfig, choose
from torchbeast.nets.encoders import TreeEncoder, action_encoder, is_box_image
from torchbeast.nets.heads import Head, policy_head
from torchbeast.nets.masks import is_masked, without_mask
from torchbeast.nets.mlp import EncoderMLP, TwinMLP, orthogonal
from torchbeast.nets.normalise import Normalised
from torchbeast.nets.policy_value import PolicyValueNet
from torchbeast.nets.recurrent import ResetLSTM

TORSOS = {"shallow": shallow_torso, "deep": deep_torso, "small": small_torso}


def build(config: NetworkConfig, spec: EnvSpec, discounting: float = 0.99) -> nn.Module:
    """Returns a fresh network for an environment: ``(rows, state) -> (PolicyValue, state)``.

    It also has ``initial_state(batch_size)`` and ``distribution(logits)``. ``discounting`` is that
    of the returns by which rewards are normalised.

    Raises:
        ValueError: the network does not fit the observations, or no head fits the actions.
    """
    policy_head(1, spec.action)  # an unknown action space is an error before anything is built
    model = _build(config, spec)
    if config.normalize_observations or config.normalize_rewards:
        observations, rewards = config.normalize_observations, config.normalize_rewards
        return Normalised(model, spec, observations, rewards, discounting)
    return model


def _build(config: NetworkConfig, spec: EnvSpec) -> nn.Module:
    masked, seen = is_masked(spec), without_mask(spec)
    network = choose(config.network, seen.observation)
    if user_code.is_reference(network):
        own = user.load(network, spec)
        if user.is_model(own):
            user.check_model(own, network, spec, config)
            return own
        net = _build_user(config, seen, user.load(network, seen) if masked else own)
    elif network == "mlp":
        net = _build_mlp(config, seen)
    else:
        net = _build_conv(config, seen, network)
    net.masked = masked
    net.bf16 = config.precision == "bf16"
    return net


def _build_conv(config: NetworkConfig, spec: EnvSpec, network: str) -> PolicyValueNet:
    side = MIN_SIDE[network]
    torso = TORSOS[network]
    encoder = TreeEncoder(spec.observation, torso, lambda leaf: is_box_image(leaf, side))
    previous = action_encoder(spec.action)
    core_size = encoder.out_features + 1 + previous.out_features
    lstm = _build_lstm(config, core_size, 256)
    features = core_size if lstm is None else lstm.hidden_size
    head = _head(config, features, spec)
    value = nn.Linear(features, 1)
    if network != "deep":
        # With PyTorch's own start, Pong stays at -20 for more than a million steps.
        orthogonal(encoder, math.sqrt(2))
        orthogonal(head, 0.01)
        orthogonal(value, 1.0)
    return PolicyValueNet(encoder, previous, lstm, None, head, value)


def _build_mlp(config: NetworkConfig, spec: EnvSpec) -> PolicyValueNet:
    flat = TreeEncoder(spec.observation)
    if config.use_lstm:
        encoder = EncoderMLP(flat, config.hidden_sizes, config.activation)
        return _behind(encoder, config, spec, encoder.out_features)
    # Without memory the policy sees the observation alone, and shares nothing with the value.
    trunks = TwinMLP(flat.out_features, config.hidden_sizes, config.activation)
    head = orthogonal(_head(config, trunks.out_features, spec), 0.01)
    value = orthogonal(nn.Linear(trunks.out_features, 1), 1.0)
    return PolicyValueNet(flat, None, None, trunks, head, value)


def _build_user(config: NetworkConfig, spec: EnvSpec, encoder: nn.Module) -> PolicyValueNet:
    user.check_encoder(encoder, config.network, spec)
    return _behind(encoder, config, spec, 256)


def _behind(
    encoder: nn.Module, config: NetworkConfig, spec: EnvSpec, lstm_size: int
) -> PolicyValueNet:
    """Returns the network of an encoder, a memory if one is asked for, and two heads."""
    features = int(encoder.out_features)  # type: ignore[arg-type]
    previous, lstm = None, None
    if config.use_lstm:
        previous = action_encoder(spec.action)
        lstm = _build_lstm(config, features + 1 + previous.out_features, lstm_size)
        assert lstm is not None
        lstm.remember()
        features = lstm.hidden_size
    head = orthogonal(_head(config, features, spec), 0.01)
    value = orthogonal(nn.Linear(features, 1), 1.0)
    return PolicyValueNet(encoder, previous, lstm, None, head, value)


def _head(config: NetworkConfig, in_features: int, spec: EnvSpec) -> Head:
    return policy_head(in_features, spec.action, config.state_dependent_std, config.log_std_init)


def _build_lstm(config: NetworkConfig, in_features: int, own_size: int) -> ResetLSTM | None:
    if not config.use_lstm:
        return None
    return ResetLSTM(in_features, config.lstm_size or own_size, config.lstm_layers)

"""From settings and an environment to a fresh network."""

from __future__ import annotations

import math

from gymnasium import spaces
from torch import nn

from torchbeast import user_code
from torchbeast.data import EnvSpec
from torchbeast.nets import user
from torchbeast.nets.atari import deep_torso, drq_torso, shallow_torso, small_torso
from torchbeast.nets.config import MIN_SIDE, NetworkConfig, choose
from torchbeast.nets.encoders import TreeEncoder, action_encoder, is_box_image
from torchbeast.nets.heads import Head, policy_head
from torchbeast.nets.masks import is_masked, without_mask
from torchbeast.nets.mlp import MLP, EncoderMLP, TwinMLP, orthogonal
from torchbeast.nets.normalise import Normalised
from torchbeast.nets.policy_value import PolicyValueNet
from torchbeast.nets.q_heads import QHead, QuantileHead
from torchbeast.nets.q_value import QNet
from torchbeast.nets.recurrent import ResetLSTM

# The convolutions, and the units of the linear layer behind them.
TORSOS = {
    "shallow": (shallow_torso, 512),
    "deep": (deep_torso, 256),
    "small": (small_torso, 128),
    "drq": (drq_torso, 256),
}
MAX_OWN_HIDDEN = 512  # units of the hidden layer that Q-learning puts behind a user's encoder


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
    encoder = conv_encoder(spec, network, TORSOS[network][1])
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
        mlp = MLP(flat.out_features, config.hidden_sizes, config.activation)
        encoder = EncoderMLP(flat, mlp)
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


def build_q(
    config: NetworkConfig,
    spec: EnvSpec,
    *,
    numbers: int = 1,
    dueling: bool = False,
    noisy: bool = False,
    implicit: bool = False,
    layer_norm: bool = False,
    discounting: float = 0.99,
) -> nn.Module:
    """Returns a fresh network of Q-learning: ``(rows, state) -> (ActionValues, state)``.

    It also has ``initial_state(batch_size)``; see QNet. The last hidden layer belongs to the head.
    Layers begin as PyTorch's do, like the published ones, but the memory begins long.

    Args:
        config: which network.
        spec: of the environment.
        numbers: N of each action.
        dueling: see QHead.
        noisy: see QHead.
        implicit: the numbers are quantiles, at the fractions ``taus``; see QuantileHead.
        layer_norm: a LayerNorm before each activation, as in PQN (arXiv:2407.04811).
        discounting: of returns.

    Raises:
        ValueError: the actions are not Discrete, or a setting does not fit.
    """
    actions = _count_actions(config, spec)
    masked, seen = is_masked(spec), without_mask(spec)
    network = choose(config.network, seen.observation)
    encoder, hidden = _q_encoder(config, seen, network, layer_norm, implicit)
    features, previous, lstm = int(encoder.out_features), None, None  # type: ignore[arg-type]
    if config.use_lstm:
        previous = action_encoder(spec.action)
        own_size = features if network == "mlp" else 256
        lstm = _build_lstm(config, features + 1 + previous.out_features, own_size)
        assert lstm is not None
        lstm.remember()
        features = lstm.hidden_size
    activation = config.activation if network == "mlp" else "relu"
    numbers = 1 if implicit else numbers
    head = QHead(features, actions, numbers, hidden, activation, dueling, noisy, layer_norm)
    net = QNet(encoder, previous, lstm, QuantileHead(head, features) if implicit else head)
    net.masked = masked
    net.bf16 = config.precision == "bf16"
    if config.normalize_observations:
        return Normalised(net, spec, True, False, discounting)
    return net


def _count_actions(config: NetworkConfig, spec: EnvSpec) -> int:
    """Returns the number of actions, if Q-learning can follow the settings."""
    if not isinstance(spec.action, spaces.Discrete):
        raise ValueError(
            f"expected Discrete actions for Q-learning, got {spec.action}; use an algorithm with a "
            f"policy (ppo, sac, td3, ...), or number the choices of MultiDiscrete by a wrapper"
        )
    if config.normalize_rewards:
        raise ValueError(
            "expected no --normalize_rewards with Q-learning, got True; it needs the running "
            "return of each environment, and rewards out of a replay have none: use "
            "--reward_clipping abs_one, or scale them by a wrapper"
        )
    return int(spec.action.n)


def _q_encoder(
    config: NetworkConfig, spec: EnvSpec, network: str, layer_norm: bool, implicit: bool
) -> tuple[nn.Module, tuple[int, ...]]:
    """Returns what comes before memory and head, and the hidden units of the head."""
    if user_code.is_reference(network):
        own = user.load(network, spec)
        if user.is_model(own):
            raise ValueError(
                f"expected --network {network} to have out_features (an encoder), got a whole "
                f"model; what Q-learning puts behind it (duel, noise, distributions of returns) "
                f"is the algorithm's to choose"
            )
        user.check_encoder(own, network, spec)
        return own, (min(int(own.out_features), MAX_OWN_HIDDEN),)  # type: ignore[arg-type]
    if network == "mlp":
        flat = TreeEncoder(spec.observation)
        sizes = config.hidden_sizes if config.use_lstm else config.hidden_sizes[:-1]
        if implicit and not sizes:
            sizes = (
                config.hidden_sizes
            )  # fractions multiply features: where those are 0 they vanish
        mlp = MLP(flat.out_features, sizes, config.activation, None, layer_norm)
        return EncoderMLP(flat.alone(), mlp) if sizes else flat, config.hidden_sizes[-1:]
    units = TORSOS[network][1]
    return conv_encoder(spec, network, units * config.use_lstm, layer_norm), (units,)


def conv_encoder(spec: EnvSpec, network: str, units: int, layer_norm: bool = False) -> TreeEncoder:
    """Returns the encoder that convolves what it can; ``units`` 0 leaves out the linear layer."""
    side = MIN_SIDE[network]

    def torso(channels: int, height: int, width: int) -> nn.Module:
        return TORSOS[network][0](channels, height, width, units, layer_norm)

    return TreeEncoder(spec.observation, torso, lambda leaf: is_box_image(leaf, side))


def _head(config: NetworkConfig, in_features: int, spec: EnvSpec) -> Head:
    return policy_head(in_features, spec.action, config.state_dependent_std, config.log_std_init)


def _build_lstm(config: NetworkConfig, in_features: int, own_size: int) -> ResetLSTM | None:
    if not config.use_lstm:
        return None
    return ResetLSTM(in_features, config.lstm_size or own_size, config.lstm_layers)

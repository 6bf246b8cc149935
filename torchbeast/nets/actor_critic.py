"""From settings and an environment to a fresh policy and its critics."""

from __future__ import annotations

from typing import NamedTuple

from gymnasium import spaces
from torch import nn

from torchbeast import user_code
from torchbeast.data import EnvSpec
from torchbeast.data.spec import ACTION_MASK
from torchbeast.nets import builder, user
from torchbeast.nets.config import NetworkConfig, choose
from torchbeast.nets.critics import Critics
from torchbeast.nets.encoders import TreeEncoder
from torchbeast.nets.masks import is_masked
from torchbeast.nets.normalise import Normalised
from torchbeast.nets.policy import Bottleneck, PolicyMLP, PolicyNet


class ActorCritic(NamedTuple):
    """A policy and critics that share its encoder: they take its features."""

    model: nn.Module  # a PolicyNet, or a Normalised one
    critics: Critics
    pictures: bool  # whether it sees pictures as such, not as vectors


def build_actor_critic(
    config: NetworkConfig,
    spec: EnvSpec,
    *,
    outputs: int,
    action_size: int,
    members: int,
    numbers: int,
    layer_norm: bool = False,
) -> ActorCritic:
    """Returns a fresh policy with critics for an environment.

    Behind an encoder of pictures there are the same hidden layers as behind none.

    Args:
        config: which network.
        spec: of the environment.
        outputs: numbers of the policy.
        action_size: of the vectors that critics judge; 0 if they judge all actions at once.
        members: critics.
        numbers: that each critic gives.
        layer_norm: a LayerNorm before each activation of the critics.

    Raises:
        ValueError: the network does not fit the observations, or a setting does not fit.
    """
    _check(config, spec)
    network, encoder = _encoder(config, spec)
    convolved = network in builder.TORSOS
    features = int(encoder.out_features)  # type: ignore[arg-type]

    def bottleneck() -> nn.Module | None:
        return Bottleneck(features) if convolved else None

    hidden, activation, bf16 = config.hidden_sizes, config.activation, config.precision == "bf16"
    policy = PolicyMLP(features, outputs, hidden, activation, bottleneck(), bf16)
    model: nn.Module = PolicyNet(encoder, policy, bf16)
    critics = Critics(
        features,
        action_size,
        numbers,
        hidden,
        activation,
        members,
        layer_norm,
        bottleneck(),
        bf16,
    )
    if config.normalize_observations:
        model = Normalised(model, spec, True, False, 1.0)
    return ActorCritic(model, critics, network != "mlp")


def _check(config: NetworkConfig, spec: EnvSpec) -> None:
    if is_masked(spec):
        raise ValueError(
            f"expected observations without {ACTION_MASK}, got {spec.observation}; ppo, impala, "
            f"a2c and the Q-learning algorithms know forbidden actions"
        )
    if config.use_lstm:
        raise ValueError(
            "expected no --use_lstm with an algorithm that replays single transitions; ppo, impala "
            "and r2d2 have memory"
        )
    if config.state_dependent_std or config.log_std_init:
        raise ValueError(
            "expected no --state_dependent_std or --log_std_init with an algorithm that has "
            "critics, got one; its policy says itself how it explores"
        )
    if config.normalize_rewards:
        raise ValueError(
            "expected no --normalize_rewards with an algorithm that replays, got True; it needs "
            "the running return of each environment, and rewards out of a replay have none: use "
            "--reward_scale"
        )


def _encoder(config: NetworkConfig, spec: EnvSpec) -> tuple[str, nn.Module]:
    """Returns the name of what critics and policy share, and itself."""
    network = choose(config.network, spec.observation)
    if user_code.is_reference(network):
        own = user.load(network, spec)
        if user.is_model(own):
            raise ValueError(
                f"expected --network {network} to have out_features (an encoder), got a whole "
                f"model; policy and critics behind it are the algorithm's to choose"
            )
        user.check_encoder(own, network, spec)
        return network, own
    if network == "mlp":
        return network, TreeEncoder(spec.observation).alone()
    if config.network == "auto" and network == "shallow" and isinstance(spec.action, spaces.Box):
        network = "drq"
    return network, builder.conv_encoder(spec, network, 0)

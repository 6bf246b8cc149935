"""Networks: from observations to policies and values."""

from torchbeast.nets.action_units import ActionUnits
from torchbeast.nets.actor_critic import ActorCritic, build_actor_critic
from torchbeast.nets.augment import RandomShift
from torchbeast.nets.builder import build, build_q
from torchbeast.nets.config import NETWORKS, NetworkConfig, choose
from torchbeast.nets.critics import Critics
from torchbeast.nets.normalise import (
    Normalised,
    is_recurrent,
    normalised_rewards,
    observe,
    unwrapped,
)
from torchbeast.nets.policy import PolicyNet
from torchbeast.nets.policy_value import PolicyValue, PolicyValueNet
from torchbeast.nets.q_value import ActionValues, QNet

__all__ = [
    "NETWORKS",
    "ActionUnits",
    "ActionValues",
    "ActorCritic",
    "Critics",
    "NetworkConfig",
    "Normalised",
    "PolicyNet",
    "PolicyValue",
    "PolicyValueNet",
    "QNet",
    "RandomShift",
    "build",
    "build_actor_critic",
    "build_q",
    "choose",
    "is_recurrent",
    "normalised_rewards",
    "observe",
    "unwrapped",
]

"""Networks: from observations to policies and values."""

from torchbeast.nets.builder import build, build_q
from torchbeast.nets.config import NETWORKS, NetworkConfig, choose
from torchbeast.nets.normalise import (
    Normalised,
    is_recurrent,
    normalised_rewards,
    observe,
    unwrapped,
)
from torchbeast.nets.policy_value import PolicyValue, PolicyValueNet
from torchbeast.nets.q_value import ActionValues, QNet

__all__ = [
    "NETWORKS",
    "ActionValues",
    "NetworkConfig",
    "Normalised",
    "PolicyValue",
    "PolicyValueNet",
    "QNet",
    "build",
    "build_q",
    "choose",
    "is_recurrent",
    "normalised_rewards",
    "observe",
    "unwrapped",
]

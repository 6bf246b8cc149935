"""Networks: from observations to policies and values."""

from torchbeast.nets.builder import build
from torchbeast.nets.config import NETWORKS, NetworkConfig, choose
from torchbeast.nets.normalise import Normalised, is_recurrent, normalised_rewards, observe
from torchbeast.nets.policy_value import PolicyValue, PolicyValueNet

__all__ = [
    "NETWORKS",
    "NetworkConfig",
    "Normalised",
    "PolicyValue",
    "PolicyValueNet",
    "build",
    "choose",
    "is_recurrent",
    "normalised_rewards",
    "observe",
]

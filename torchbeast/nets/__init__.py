"""Networks: from observations to policies and values."""

from torchbeast.nets.policy_value import NetworkConfig, PolicyValue, PolicyValueNet, build

__all__ = ["NetworkConfig", "PolicyValue", "PolicyValueNet", "build"]

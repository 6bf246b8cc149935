"""TorchBeast: train deep reinforcement-learning agents in PyTorch, from a laptop to a cluster."""

__version__ = "1.0.0.dev0"

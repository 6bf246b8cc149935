"""Which network: the settings, and the one that fits observations."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from torchbeast import user_code
from torchbeast.nets.encoders import is_box_image, leaves

NETWORKS = ("auto", "shallow", "deep", "small", "drq", "mlp")
MIN_SIDE = {
    "shallow": 36,
    "small": 5,
    "drq": 16,
    "deep": 1,
}  # pixels: less leaves nothing to convolve


@dataclass(frozen=True)
class NetworkConfig:
    """What network answers and learns."""

    network: str = "auto"
    """Convolutions for images (shallow, deep, small, drq), an mlp, or a class of your own as
    `path/to/file.py:Class` or `module:Class`. auto: shallow for images of at least 36x36 (drq
    where a critic judges Box actions), small for smaller ones of floats or bools, else mlp."""
    use_lstm: bool = False
    """Put an LSTM behind the network, so that it can remember."""
    lstm_size: int = 0
    """Units of the LSTM; 0: the last hidden size behind an mlp, else 256."""
    lstm_layers: int = 1
    """Layers of the LSTM."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each layer of the mlp."""
    activation: Literal["tanh", "relu"] = "tanh"
    """What follows each layer of the mlp."""
    state_dependent_std: bool = False
    """The deviation of real-valued (Box) actions depends on the observation."""
    log_std_init: float = 0.0
    """Logarithm of that deviation at the start; bounded actions count from -1 to 1."""
    normalize_observations: bool = False
    """Standardise numbers in observations by their running mean and deviation."""
    normalize_rewards: bool = False
    """Divide rewards by the running deviation of the discounted return."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: encoders, and hidden layers of policies with critics, compute in bfloat16 (GPUs, CPUs
    with AMX); weights stay float32."""


def choose(network: str, space: spaces.Space[Any]) -> str:
    """Returns which network serves observations of ``space``; a reference stays what it is.

    Raises:
        ValueError: there is no such network, or it needs an image and there is none large enough.
    """
    if user_code.is_reference(network):
        return network
    if network not in NETWORKS:
        nearest = difflib.get_close_matches(network, NETWORKS, 1, cutoff=0.0)[0]
        raise ValueError(
            f"expected --network {', '.join(NETWORKS)}, or path/to/file.py:Class, got "
            f"{network!r}; did you mean {nearest}?"
        )
    images = [leaf for _, leaf in leaves(space) if is_box_image(leaf)]
    if network == "auto":
        return _fitting(images)
    if network == "mlp":
        return network
    if not images:
        raise ValueError(
            f"expected image observations for --network {network}, got {space}; "
            f"use --network mlp or auto"
        )
    side = MIN_SIDE[network]
    if not any(is_box_image(leaf, side) for leaf in images):
        raise ValueError(
            f"expected images of at least {side}x{side} pixels for --network {network}, got "
            f"{space}; use --network deep, mlp or auto"
        )
    return network


def _fitting(images: list[spaces.Space[Any]]) -> str:
    if any(is_box_image(leaf, MIN_SIDE["shallow"]) for leaf in images):
        return "shallow"
    # Small grids of integers are codes, as MiniGrid's, and no brightness to convolve.
    continuous = [leaf for leaf in images if leaf.dtype == bool or _is_float(leaf)]
    return "small" if any(is_box_image(leaf, MIN_SIDE["small"]) for leaf in continuous) else "mlp"


def _is_float(space: spaces.Space[Any]) -> bool:
    return np.issubdtype(space.dtype, np.floating)

"""Rainbow: C51 with all that improved on DQN put together (arXiv:1710.02298)."""

from __future__ import annotations

import dataclasses

from torchbeast.algorithms import c51


@dataclasses.dataclass(frozen=True)
class Config(c51.Config):
    """Rainbow: C51 that is double, dueling, noisy, prioritized, and looks n steps ahead."""

    n_step: int = 3
    """Rewards summed up before a value takes over."""
    double: bool = True
    """The model, not the target network, says which next action is best."""
    dueling: bool = True
    """The network adds a value and advantages that it learns apart."""
    noisy: bool = True
    """Explore by noise in the weights, whose size is learned, instead of random actions."""
    prioritized: bool = True
    """Draw what was surprising more often."""
    priority_exponent: float = 0.5
    """How much more often: 0 is uniform, 1 in proportion."""
    learning_rate: float = 0.0000625
    """Adam's step size."""
    epsilon: float = 0.00015
    """Adam's epsilon."""


class Rainbow(c51.C51):
    """C51 with the settings of the paper's table 1; the equations are in ``c51.py``."""

    config_type = Config

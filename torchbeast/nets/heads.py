"""What comes last: from features to the numbers that make a distribution over actions."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from torch import Tensor, nn

from torchbeast.ops import Categorical, MultiCategorical

Distribution = Categorical | MultiCategorical


class CategoricalHead(nn.Linear):
    """Logits of one discrete action; [..., F] to [..., A]."""

    def __init__(self, in_features: int, space: spaces.Discrete) -> None:
        super().__init__(in_features, int(space.n))

    def distribution(self, logits: Tensor) -> Categorical:
        """Returns the distribution with logits [..., A]."""
        return Categorical(logits)


class MultiCategoricalHead(nn.Linear):
    """Logits of K discrete actions; [..., F] to [..., sum(nvec)]."""

    def __init__(self, in_features: int, space: spaces.MultiDiscrete) -> None:
        nvec = tuple(int(n) for n in space.nvec)
        super().__init__(in_features, sum(nvec))
        self.nvec = nvec

    def distribution(self, logits: Tensor) -> MultiCategorical:
        """Returns the distribution with logits [..., sum(nvec)]."""
        return MultiCategorical(logits, self.nvec)


Head = CategoricalHead | MultiCategoricalHead


def policy_head(in_features: int, space: spaces.Space[Any]) -> Head:
    """Returns the head that fits an action space.

    A head is a module [..., F] -> [..., P] with ``distribution(logits [..., P])``; one for Box
    (mean and log_std side by side) needs a class here and a line below.

    Raises:
        ValueError: there is no head for this space.
    """
    if isinstance(space, spaces.Discrete):
        return CategoricalHead(in_features, space)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return MultiCategoricalHead(in_features, space)
    raise ValueError(
        f"expected an action space that fits a policy head, got {space}; Discrete and "
        f"MultiDiscrete actions work now, Box comes with the policy gradients, and others need "
        f"an action wrapper"
    )

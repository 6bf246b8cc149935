"""State-value losses, element by element: the algorithm chooses sum or mean."""

from __future__ import annotations

from torch import Tensor

from torchbeast.ops.policy_gradient import masked


def baseline_loss(value: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns 0.5 (target_t - V(s_t))^2, [T, B]; the gradient reaches only value.

    First term of arXiv:1802.01561 section 4.2, with the half of the ancestors' code.
    `valid` [T, B] is 0 for transitions that nobody chose.
    """
    if value.shape != target.shape:
        raise ValueError(
            f"expected value and target of one shape, got {list(value.shape)} and "
            f"{list(target.shape)}"
        )
    return masked(0.5 * (target.detach() - value) ** 2, valid)

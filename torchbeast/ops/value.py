"""State-value losses, element by element: the algorithm chooses sum or mean."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbeast.ops.policy_gradient import masked


def baseline_loss(value: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns 0.5 (target_t - V(s_t))^2, [T, B]; the gradient reaches only value.

    First term of arXiv:1802.01561 section 4.2, with the half of the ancestors' code.
    `valid` [T, B] is 0 for transitions that nobody chose.
    """
    _check_shapes(value=value, target=target)
    return masked(0.5 * (target.detach() - value) ** 2, valid)


def clipped_baseline_loss(
    value: Tensor, old_value: Tensor, target: Tensor, clip: float, valid: Tensor | None = None
) -> Tensor:
    """Returns 0.5 max((V - R)^2, (V_clipped - R)^2), [T, B]; the gradient reaches only value.

    V_clipped = V_old + clip(V - V_old, -clip, clip), as in the code of PPO's authors
    (arXiv:1707.06347): no reward for moving further from V_old than `clip`, in units of value.
    `valid` [T, B] is 0 for transitions that nobody chose.
    """
    _check_shapes(value=value, old_value=old_value, target=target)
    old_value, target = old_value.detach(), target.detach()
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return masked(0.5 * torch.maximum((value - target) ** 2, (clipped - target) ** 2), valid)


def _check_shapes(**named: Tensor) -> None:
    shapes = [list(x.shape) for x in named.values()]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"expected {' and '.join(named)} of one shape, got {' and '.join(map(str, shapes))}"
        )

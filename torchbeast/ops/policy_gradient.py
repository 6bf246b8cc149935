"""Policy-gradient losses, element by element: the algorithm chooses sum or mean."""

from __future__ import annotations

from torch import Tensor


def policy_gradient_loss(
    log_prob: Tensor, advantage: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Returns -log pi(a_t) advantage_t, [T, B]; the gradient reaches only log_prob.

    Williams 1992; with V-trace advantages the second term of arXiv:1802.01561 section 4.2.
    `valid` [T, B] is 0 for transitions that nobody chose.
    """
    if log_prob.shape != advantage.shape:
        raise ValueError(
            "expected log_prob and advantage of one shape, got "
            f"{list(log_prob.shape)} and {list(advantage.shape)}"
        )
    return masked(-log_prob * advantage.detach(), valid)


def entropy_loss(entropy: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns the negative entropy of the policy, [T, B]: minimising it explores (A3C, 1602.01783).

    `valid` [T, B] is 0 for transitions that nobody chose.
    """
    return masked(-entropy, valid)


def masked(loss: Tensor, valid: Tensor | None) -> Tensor:
    """Returns loss * valid [T, B], exactly 0 where valid is 0 even if the loss is inf or nan."""
    if valid is None:
        return loss
    if valid.shape != loss.shape:
        raise ValueError(f"expected valid of shape {list(loss.shape)}, got {list(valid.shape)}")
    return (loss * valid).masked_fill(valid == 0, 0.0)

"""Policy-gradient losses, element by element: the algorithm chooses sum or mean."""

from __future__ import annotations

import torch
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


def clipped_surrogate_loss(
    log_ratio: Tensor, advantage: Tensor, epsilon: float, valid: Tensor | None = None
) -> Tensor:
    """Returns -min(r A, clip(r, 1 - epsilon, 1 + epsilon) A), [...], with r = exp(log_ratio).

    PPO, arXiv:1707.06347 equation 7. log_ratio is log pi(a) - log pi_old(a) and alone gets a
    gradient. `valid` [...] is 0 for transitions that nobody chose.
    """
    if log_ratio.shape != advantage.shape:
        raise ValueError(
            "expected log_ratio and advantage of one shape, got "
            f"{list(log_ratio.shape)} and {list(advantage.shape)}"
        )
    if valid is not None:
        # Before exp: its gradient would be 0 * inf where a mask forbids what nobody chose.
        log_ratio = masked(log_ratio, valid != 0)
    ratio, advantage = log_ratio.exp(), advantage.detach()
    clipped = ratio.clamp(1.0 - epsilon, 1.0 + epsilon)
    return masked(-torch.minimum(ratio * advantage, clipped * advantage), valid)


def standardise(advantage: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns (advantage - mean) / (std + 1e-8) over the valid ones, [...]; 0 where not valid.

    As PPO's authors did for each minibatch, with the unbiased std. Fewer than two valid ones have
    none and stay as they are. No gradient flows, and no synchronisation with a GPU.
    """
    with torch.no_grad():
        if valid is None:
            if advantage.numel() < 2:
                return advantage
            std, mean = torch.std_mean(advantage)
            return (advantage - mean) / (std + 1e-8)
        chosen = (valid != 0).to(advantage.dtype)
        count = chosen.sum()
        centred = masked(advantage - masked(advantage, chosen).sum() / count, chosen)
        std = (centred.square().sum() / (count - 1)).sqrt()
        return torch.where(count > 1, centred / (std + 1e-8), masked(advantage, chosen))


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Returns (r - 1) - log r, [...]: its mean over actions of the old policy is KL(old || new).

    The estimator k3 of joschu.net/blog/kl-approx.html: unbiased, never negative, of low variance.
    log_ratio is log pi(a) - log pi_old(a).
    """
    return torch.expm1(log_ratio) - log_ratio


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

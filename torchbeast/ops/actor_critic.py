"""Q-function policy gradients: what a critic should say, and what a policy should do about it.

Actions are in units in which their bounds are -1 and 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def td_target(reward: Tensor, discount: Tensor, value: Tensor) -> Tensor:
    """Returns reward + discount value(s') [...], without gradient.

    For n steps reward is their discounted sum; discount is gamma^n, and 0 where s' is terminal.
    """
    _check_same(reward=reward, discount=discount, value=value)
    with torch.no_grad():
        return torch.addcmul(reward, discount, value)


def soft_value(q: Tensor, log_prob: Tensor, temperature: Tensor | float) -> Tensor:
    """Returns Q(s, a) - alpha log pi(a | s) [...], for a drawn from pi.

    SAC, arXiv:1812.05905 equation 3. Its negative is the loss of the policy (equation 7).
    """
    _check_same(q=q, log_prob=log_prob)
    return q - temperature * log_prob


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Returns -log alpha (log pi(a | s) + H) [...]; the gradient reaches only log alpha.

    SAC, arXiv:1812.05905 equation 18 with log alpha in place of alpha, as its authors' code has it:
    the same fixed point, and steps that do not shrink with alpha.
    """
    return -log_temperature * (log_prob.detach() + target_entropy)


def explored(action: Tensor, noise: Tensor, deviation: float) -> Tensor:
    """Returns actions [..., D] with standard normal ``noise`` scaled to it, within -1 .. 1."""
    return torch.add(action, noise, alpha=deviation).clamp_(-1, 1)


def smoothed(action: Tensor, noise: Tensor, deviation: float, clip: float) -> Tensor:
    """Returns actions [..., D] near those of the target policy, within -1 .. 1.

    Target policy smoothing of TD3, arXiv:1802.09477 equations 14 and 15: standard normal ``noise``
    is scaled and clipped to +-clip before it is added.
    """
    return (action + (noise * deviation).clamp(-clip, clip)).clamp(-1, 1)


def _check_same(**named: Tensor) -> None:
    shapes = [list(x.shape) for x in named.values()]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"expected {', '.join(named)} of one shape, got {shapes}")

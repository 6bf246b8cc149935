"""Distributions of returns instead of their means: on fixed atoms (C51) and by quantiles."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from torchbeast.ops.q_learning import huber


def value_atoms(low: float, high: float, count: int) -> Tensor:
    """Returns the values [count] between which a categorical distribution of returns is shared.

    Raises:
        ValueError: ``low`` is not below ``high``.
    """
    if not low < high:
        raise ValueError(f"expected --value_min below --value_max {high:g}, got {low:g}")
    return torch.linspace(low, high, count)


def categorical_projection(
    atoms: Tensor, probabilities: Tensor, reward: Tensor, discount: Tensor
) -> Tensor:
    """Returns the distribution of reward + discount Z on the atoms of Z, [..., N], no gradient.

    C51, arXiv:1707.06887 equation 7: what falls between two atoms is shared by nearness, what
    falls beyond the ends goes to them.

    Args:
        atoms: [N], at least two, evenly spaced and rising.
        probabilities: [..., N], of the atoms at the successor.
        reward: [...].
        discount: [...], gamma^n, and 0 where the successor is terminal.
    """
    count = len(atoms)
    lead = probabilities.shape[:-1]
    if count < 2 or probabilities.shape[-1:] != atoms.shape:
        raise ValueError(
            f"expected atoms [N] of two or more and probabilities [..., N], got "
            f"{list(atoms.shape)} and {list(probabilities.shape)}"
        )
    if not reward.shape == discount.shape == lead:
        raise ValueError(
            f"expected reward and discount of shape {list(lead)} for probabilities "
            f"{list(probabilities.shape)}, got {list(reward.shape)} and {list(discount.shape)}"
        )
    with torch.no_grad():
        moved = torch.addcmul(reward.unsqueeze(-1), discount.unsqueeze(-1), atoms)
        # In steps between atoms, clamped there: the two nearest integers then share exactly 1,
        # however roughly the atoms themselves are rounded.
        place = (moved - atoms[0]) * ((count - 1) / (atoms[-1] - atoms[0]))
        place = place.clamp(0, count - 1)
        integer = torch.arange(count, device=atoms.device, dtype=atoms.dtype).unsqueeze(-1)
        share = (1 - (place.unsqueeze(-2) - integer).abs()).clamp(min=0)  # [..., to, from]
        return (share * probabilities.unsqueeze(-2)).sum(-1)


def categorical_loss(logits: Tensor, target_probabilities: Tensor) -> Tensor:
    """Returns the cross entropy -sum_i m_i log p_i(x) [...]; the gradient reaches only logits.

    C51, arXiv:1707.06887 algorithm 1, from logits and probabilities [..., N].
    """
    if logits.shape != target_probabilities.shape:
        raise ValueError(
            "expected logits and target_probabilities of one shape, got "
            f"{list(logits.shape)} and {list(target_probabilities.shape)}"
        )
    return -(target_probabilities.detach() * functional.log_softmax(logits, -1)).sum(-1)


def expected_value(logits: Tensor, atoms: Tensor) -> Tensor:
    """Returns the mean [...] of the distributions with logits [..., N] on atoms [N]."""
    return (torch.softmax(logits, -1) * atoms).sum(-1)


def quantile_huber_loss(
    quantiles: Tensor,
    taus: Tensor,
    target_quantiles: Tensor,
    kappa: float = 1.0,
    *,
    over_kappa: bool = False,
) -> Tensor:
    """Returns sum_i mean_j |tau_i - 1{u_ij < 0}| Huber(u_ij) [...], u_ij = target_j - quantile_i.

    QR-DQN, arXiv:1710.10044 equation 10. The gradient reaches only the quantiles.

    Args:
        quantiles: [..., N], predicted.
        taus: [..., N] or [N], the fraction of returns below each predicted quantile.
        target_quantiles: [..., M], samples of the return.
        kappa: of the Huber loss; 0 is |u|, the quantile regression without smoothing.
        over_kappa: divide by kappa, as in IQN, arXiv:1806.06923.
    """
    if taus.shape[-1] != quantiles.shape[-1] or quantiles.shape[:-1] != target_quantiles.shape[:-1]:
        raise ValueError(
            "expected quantiles and taus [..., N] and target_quantiles [..., M], got "
            f"{list(quantiles.shape)}, {list(taus.shape)} and {list(target_quantiles.shape)}"
        )
    u = target_quantiles.detach().unsqueeze(-2) - quantiles.unsqueeze(-1)
    loss = huber(u, kappa) if kappa else u.abs()
    if over_kappa and kappa:
        loss = loss / kappa
    weight = (taus.detach().unsqueeze(-1) - (u < 0).to(u.dtype)).abs()
    return (weight * loss).mean(-1).sum(-1)


def quantile_midpoints(
    count: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns (2 i + 1) / (2 count) for i = 0 .. count - 1, [count]: the taus of QR-DQN.

    arXiv:1710.10044 lemma 2: quantiles there are nearest to the distribution.
    """
    return (torch.arange(count, device=device, dtype=dtype) + 0.5) / count

"""Q-learning: which action is greedy, what its value should be, and the loss of the difference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from torchbeast.ops.distributions import mask_logits
from torchbeast.ops.policy_gradient import masked
from torchbeast.ops.returns import n_step_returns
from torchbeast.ops.scan import check_time_major
from torchbeast.ops.transforms import rescale, unrescale


def greedy(q: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Returns the action of the highest q [..., A], int64 [...]; of equal ones the first.

    Only among those where `allowed` [..., A] is not 0; where nothing is allowed, action 0.
    """
    return (q if allowed is None else mask_logits(q, allowed)).argmax(-1)


def chosen(q: Tensor, action: Tensor) -> Tensor:
    """Returns the part of q [..., A, *rest] that belongs to action [...], [..., *rest].

    `rest` is empty for values, (N,) for the atoms or quantiles of each action.

    Raises:
        ValueError: the leading dimensions of q are not those of action.
    """
    dim = action.dim()
    if q.dim() <= dim or q.shape[:dim] != action.shape:
        raise ValueError(
            f"expected q of shape [..., A] or [..., A, N] for actions [...] = "
            f"{list(action.shape)}, got {list(q.shape)}"
        )
    rest = q.shape[dim + 1 :]
    index = action.reshape(*action.shape, 1, *(1 for _ in rest)).expand(*action.shape, 1, *rest)
    return q.gather(dim, index).squeeze(dim)


def q_target(reward: Tensor, discount: Tensor, q_next: Tensor, next_action: Tensor) -> Tensor:
    """Returns reward + discount Q(s', a') [...] without gradient, of q_next [..., A].

    Q-learning with a' greedy in q_next (DQN, Mnih et al. 2015), double Q-learning with a'
    greedy in the online network (arXiv:1509.06461 equation 4). For n steps reward is their
    discounted sum; discount is gamma^n, and 0 where s' is terminal.
    """
    with torch.no_grad():
        value = chosen(q_next, next_action)
        if not reward.shape == discount.shape == value.shape:
            raise ValueError(
                "expected reward, discount and next_action of one shape, got "
                f"{list(reward.shape)}, {list(discount.shape)} and {list(value.shape)}"
            )
        return torch.addcmul(reward, discount, value)


def huber(x: Tensor, kappa: float | None = 1.0) -> Tensor:
    """Returns x^2 / 2 where |x| <= kappa, kappa (|x| - kappa / 2) beyond, [...].

    Huber 1964; kappa None is x^2 / 2 everywhere. With kappa 1 the gradient is x clipped to
    [-1, 1], as Mnih et al. 2015 clip the error of DQN.
    """
    if kappa is None:
        return 0.5 * x.square()
    # One kernel: for all pairs of 200 quantiles a fifth of the time of the formula, or less.
    return functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=kappa)


def transformed_n_step_targets(
    q_target: Tensor,
    next_action: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    n: int,
    eps: float = 1e-3,
    valid: Tensor | None = None,
) -> Tensor:
    """Returns h(sum_k gamma^k r_{t+k} + gamma^n h^-1(Q(s_{t+n}, a*))) [T, B], without gradient.

    R2D2, Kapturowski et al. 2019, equation 1, with h of arXiv:1805.11593 (`rescale`). Windows are
    those of `n_step_returns`: shorter at the end of an episode and of the sequence.

    Args:
        q_target: [T + 1, B, A] of the target network, in units of h, at s_0 .. s_T.
        next_action: [T + 1, B], a* at the same states: greedy in the online network.
        r_t: [T, B], rewards of the transitions from s_t to s_{t+1}.
        discount_t: [T, B], gamma, and 0 where s_{t+1} is terminal.
        n: steps.
        eps: of h.
        valid: [T, B], 0 for transitions that nobody chose: there the target is 0.
    """
    with torch.no_grad():
        v_t = unrescale(chosen(q_target, next_action)[1:], eps)
        check_time_major(v_t=v_t, r_t=r_t)
        window = n_step_returns(r_t, discount_t, n, valid=valid)
        return masked(rescale(window.target(v_t), eps), valid)

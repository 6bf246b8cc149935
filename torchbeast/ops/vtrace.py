"""V-trace: off-policy corrected value targets and advantages (IMPALA, arXiv:1802.01561)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchbeast.ops.distributions import Categorical
from torchbeast.ops.scan import accumulate, check_time_major


class VTrace(NamedTuple):
    """Value targets and policy-gradient advantages, [T, B] each, without gradient."""

    target: Tensor
    advantage: Tensor


class VTraceFromLogits(NamedTuple):
    """V-trace and the log-probabilities it was made from, [T, B] each.

    Only `target_log_prob` carries a gradient: it is what the policy loss differentiates.
    """

    target: Tensor
    advantage: Tensor
    log_rho: Tensor
    behaviour_log_prob: Tensor
    target_log_prob: Tensor


def vtrace(
    v_tm1: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    rho_tm1: Tensor,
    *,
    trace_t: Tensor | None = None,
    lambda_: float = 1.0,
    clip_rho: float | None = 1.0,
    clip_c: float | None = 1.0,
    clip_pg_rho: float | None = 1.0,
) -> VTrace:
    """Returns V-trace targets and advantages [T, B], arXiv:1802.01561 equations 1 and 4.

    Arguments agree in rank and in [T, B]; further dimensions broadcast. No gradient flows.
    v_tm1 is V(s), v_t is V(s') of the true successor, also where an episode ended; discount_t
    multiplies what comes after s' and is 0 where s' is terminal; rho_tm1 is pi/mu (not its log),
    0 for a transition nobody chose. trace_t (default 1) is 0 where the episode ended with this
    transition: it cuts the correction by later steps but not the bootstrap, so a time limit has
    discount > 0 and trace 0. lambda_ multiplies the trace coefficients (remark 2). clip_rho bounds
    the weight of the temporal difference, clip_c of the trace, clip_pg_rho of the advantage.
    """
    check_time_major(
        v_tm1=v_tm1, v_t=v_t, r_t=r_t, discount_t=discount_t, rho_tm1=rho_tm1, trace_t=trace_t
    )
    with torch.no_grad():
        # How much the correction of s' counts for s, before its importance weight.
        onward = discount_t * lambda_ if lambda_ != 1.0 else discount_t
        if trace_t is not None:
            onward = onward * trace_t
        one_step = torch.addcmul(r_t - v_tm1, discount_t, v_t)
        # target_t - V(s_t) obeys acc_t = delta_t + onward_t c_t acc_{t+1}: equation 1, unrolled.
        delta = _clip(rho_tm1, clip_rho) * one_step
        acc = accumulate(delta, onward * _clip(rho_tm1, clip_c), bounded=_at_most_one(clip_c))
        acc_t = torch.zeros_like(acc)
        acc_t[:-1] = acc[1:]
        # The advantage looks at the corrected target of s', not at V(s') (appendix E.3); with
        # lambda below one the two are mixed, as in rlax.
        advantage = _clip(rho_tm1, clip_pg_rho) * torch.addcmul(one_step, onward, acc_t)
        return VTrace(target=v_tm1 + acc, advantage=advantage)


def vtrace_from_logits(
    behaviour_logits: Tensor,
    target_logits: Tensor,
    action: Tensor,
    v_tm1: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    *,
    valid: Tensor | None = None,
    trace_t: Tensor | None = None,
    lambda_: float = 1.0,
    clip_rho: float | None = 1.0,
    clip_c: float | None = 1.0,
    clip_pg_rho: float | None = 1.0,
) -> VTraceFromLogits:
    """Returns V-trace of two categorical policies and their action log-probabilities.

    As `vtrace`, with rho = pi(a)/mu(a) from logits [T, B, A] and actions [T, B], arXiv:1802.01561.
    Where `valid` [T, B] is 0 nobody chose the action: the importance weight is 0.
    """
    _check_logits(behaviour_logits, target_logits, action)
    behaviour_log_prob = Categorical(behaviour_logits.detach()).log_prob(action)
    target_log_prob = Categorical(target_logits).log_prob(action)
    log_rho = target_log_prob.detach() - behaviour_log_prob
    rho = log_rho.exp()
    if valid is not None:
        # Filled, not multiplied: a masked action makes the ratio 0/0 there, and 0 * nan is nan.
        rho = rho.masked_fill(valid == 0, 0.0)
    clips = {"clip_rho": clip_rho, "clip_c": clip_c, "clip_pg_rho": clip_pg_rho}
    out = vtrace(v_tm1, v_t, r_t, discount_t, rho, trace_t=trace_t, lambda_=lambda_, **clips)
    return VTraceFromLogits(*out, log_rho, behaviour_log_prob, target_log_prob)


def _clip(x: Tensor, upper: float | None) -> Tensor:
    return x if upper is None else x.clamp(max=upper)


def _at_most_one(clip: float | None) -> bool:
    return clip is not None and clip <= 1.0


def _check_logits(behaviour: Tensor, target: Tensor, action: Tensor) -> None:
    if behaviour.shape != target.shape or action.shape != target.shape[:-1]:
        raise ValueError(
            "expected behaviour and target logits [T, B, A] of one shape and action [T, B], got "
            f"{list(behaviour.shape)}, {list(target.shape)} and {list(action.shape)}"
        )

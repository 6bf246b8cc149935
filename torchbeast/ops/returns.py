"""Returns and advantages of what was really done: GAE, lambda-returns, n-step returns.

All take transitions, time-major: v_tm1 is V(s), v_t is V(s') of the true successor, also where an
episode ended; discount_t holds gamma and is 0 where s' is terminal. Two arguments keep episodes
apart. `valid` is 0 for a transition nobody chose, the step from a final observation into the next
episode: with it a time limit needs no code. Where such steps are not in the data, `trace_t` is 0
for the last transition of an episode: what follows does not count, the bootstrap does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchbeast.ops.policy_gradient import masked
from torchbeast.ops.scan import accumulate, check_time_major


class NStepReturns(NamedTuple):
    """Windows of transitions t .. last_t, [T, B] each; `target` completes them with values."""

    reward: Tensor  # discounted sum of the window
    discount: Tensor  # of the bootstrap from the successor of last_t; 0 where that is terminal
    last: Tensor  # int64, the last transition of the window
    full: Tensor  # bool: n steps, or the episode ended; others may still grow with more data

    def target(self, v_t: Tensor) -> Tensor:
        """Returns reward + discount V(successor of last) [T, B], from v_t [T, B]."""
        return self.reward + self.discount * v_t.gather(0, self.last)


def gae(
    v_tm1: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    lambda_: float,
    *,
    valid: Tensor | None = None,
    trace_t: Tensor | None = None,
) -> Tensor:
    """Returns generalised advantages [T, B] without gradient, arXiv:1506.02438 equation 16.

    A_t = delta_t + discount_t lambda A_{t+1} with delta_t = r_t + discount_t V(s') - V(s), exactly
    0 where `valid` is 0. Value targets are A + v_tm1.
    """
    check_time_major(
        v_tm1=v_tm1, v_t=v_t, r_t=r_t, discount_t=discount_t, valid=valid, trace_t=trace_t
    )
    with torch.no_grad():
        onward = discount_t * lambda_
        if trace_t is not None:
            onward = onward * trace_t
        delta = torch.addcmul(r_t - v_tm1, discount_t, v_t)
        return accumulate(masked(delta, valid), masked(onward, valid), bounded=lambda_ <= 1.0)


def lambda_returns(
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    lambda_: float,
    *,
    valid: Tensor | None = None,
    trace_t: Tensor | None = None,
) -> Tensor:
    """Returns R_t = r_t + discount_t ((1 - lambda) V(s') + lambda R_{t+1}), [T, B], no gradient.

    TD(lambda), Sutton 1988; with v_t = max_a Q(s', a) Peng's Q(lambda), as in PQN
    (arXiv:2407.04811). The last one, and the last of an episode, is r_t + discount_t V(s'); 0 where
    `valid` is 0.
    """
    check_time_major(v_t=v_t, r_t=r_t, discount_t=discount_t, valid=valid, trace_t=trace_t)
    with torch.no_grad():
        # How much R_{t+1} stands for V(s'): nothing where it is of another episode, or unknown.
        mix = torch.full_like(discount_t, lambda_)
        if trace_t is not None:
            mix = mix * trace_t
        if valid is not None:
            mix[:-1] *= valid[1:]
        mix[-1] = 0
        one_step = torch.addcmul(r_t, discount_t * (1 - mix), v_t)
        onward = masked(discount_t * mix, valid)
        return accumulate(masked(one_step, valid), onward, bounded=lambda_ <= 1.0)


def n_step_returns(
    r_t: Tensor,
    discount_t: Tensor,
    n: int,
    *,
    valid: Tensor | None = None,
    trace_t: Tensor | None = None,
) -> NStepReturns:
    """Returns for each t the window of n steps, or as many as episode and data have, [T, B].

    Sutton and Barto 2018, section 7.1; a shorter window has its own discount (gamma^m). No values
    are needed, so a replay can ask the network for the one at `last` only. Where `valid` is 0
    the window is of reward and discount 0, and not full.
    """
    check_time_major(r_t=r_t, discount_t=discount_t, valid=valid, trace_t=trace_t)
    if n < 1:
        raise ValueError(f"expected n of at least 1, got {n}")
    with torch.no_grad():
        steps = len(r_t)
        goes_on = discount_t != 0
        if trace_t is not None:
            goes_on = goes_on & (trace_t != 0)
        if valid is not None:
            goes_on[:-1] &= valid[1:] != 0
        reward, discount, grows = r_t.clone(), discount_t.clone(), goes_on.clone()
        begin = torch.arange(steps, device=r_t.device).unsqueeze(1).expand(r_t.shape)
        last = begin.clone()
        for k in range(1, min(n, steps)):
            more = grows[:-k]  # windows that take transition t + k
            reward[:-k] += torch.where(more, discount[:-k] * r_t[k:], 0)
            discount[:-k] *= torch.where(more, discount_t[k:], 1)
            last[:-k] += more
            grows[:-k] &= goes_on[k:]
        full = ~grows | (last - begin == n - 1)
        if valid is not None:
            full = full & (valid != 0)
        return NStepReturns(masked(reward, valid), masked(discount, valid), last, full)

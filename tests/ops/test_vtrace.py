"""V-trace against its definition, and the identities that published code has broken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchbeast import ops

F64 = torch.float64
NAMES = ("v_tm1", "v_t", "r_t", "discount_t", "rho_tm1")


def random_inputs(t: int, b: int, seed: int = 0, dtype: torch.dtype = F64) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    v, r = (torch.randn(n, b, generator=g, dtype=dtype) for n in (t + 1, t))
    discount = 0.9 * (torch.rand(t, b, generator=g, dtype=dtype) > 0.2)
    rho = (torch.randn(t, b, generator=g, dtype=dtype)).exp()
    return dict(zip(NAMES, (v[:-1], v[1:], r, discount, rho), strict=True))


def definition(
    x: dict[str, Tensor], clip_rho: float, clip_c: float, clip_pg: float
) -> tuple[Tensor, Tensor]:
    """Equation 1 as written: v_s = V(x_s) + sum_t gamma^(t-s) (prod_(i=s)^(t-1) c_i) delta_t."""
    v, v_next, r, d, rho = (x[name].numpy() for name in NAMES)
    steps = len(v)
    delta = np.minimum(rho, clip_rho) * (r + d * v_next - v)
    c = np.minimum(rho, clip_c)
    vs = v.copy()
    for s in range(steps):
        for t in range(s, steps):
            vs[s] += np.prod(d[s:t], axis=0) * np.prod(c[s:t], axis=0) * delta[t]
    after = np.concatenate([vs[1:], v_next[-1:]])
    advantage = np.minimum(rho, clip_pg) * (r + d * after - v)
    return torch.from_numpy(vs), torch.from_numpy(advantage)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 9, 33])
@pytest.mark.parametrize("clip", [(1.0, 1.0, 1.0), (3.7, 0.6, 2.2), (0.5, 1.5, 1.0)])
def test_equals_the_definition(steps: int, clip: tuple[float, float, float]) -> None:
    x = random_inputs(steps, 3, seed=steps)
    out = ops.vtrace(**x, clip_rho=clip[0], clip_c=clip[1], clip_pg_rho=clip[2])
    target, advantage = definition(x, *clip)
    torch.testing.assert_close(out.target, target)
    torch.testing.assert_close(out.advantage, advantage)


def test_none_does_not_clip() -> None:
    x = random_inputs(9, 4)
    assert x["rho_tm1"].max() > 1
    out = ops.vtrace(**x, clip_rho=None, clip_c=None, clip_pg_rho=None)
    target, advantage = definition(x, np.inf, np.inf, np.inf)
    torch.testing.assert_close(out.target, target)
    torch.testing.assert_close(out.advantage, advantage)


def test_unclipped_traces_do_not_overflow_across_an_episode_end() -> None:
    # Products of traces taken first would be inf, and inf * 0 at the end of the episode is nan.
    steps = 12
    zeros, discount, reward = torch.zeros(steps, 1), torch.full((steps, 1), 0.9), torch.zeros(12, 1)
    discount[5], reward[6] = 0.0, 1.0
    out = ops.vtrace(zeros, zeros, reward, discount, torch.full((steps, 1), 1e15), clip_c=None)
    torch.testing.assert_close(out.target, reward)
    assert torch.isfinite(out.target).all()
    assert torch.isfinite(out.advantage).all()


def test_on_policy_is_the_n_step_return() -> None:
    x = random_inputs(6, 2)
    x["rho_tm1"] = torch.ones_like(x["rho_tm1"])
    expected = x["v_t"][-1]
    for t in reversed(range(6)):
        expected = x["r_t"][t] + x["discount_t"][t] * expected
        torch.testing.assert_close(ops.vtrace(**x).target[t], expected)


def rows(x: dict[str, Tensor], begin: int, end: int) -> dict[str, Tensor]:
    return {name: value[begin:end] for name, value in x.items()}


@pytest.mark.parametrize("truncated", [False, True])
def test_autoreset_rows_separate_episodes(truncated: bool) -> None:
    # Rows of next-step autoreset: transitions 0-3 of one episode, 4 chosen by nobody, 5-8 of the
    # next. A terminal row has discount 0; at a time limit it stays above, and only rho = 0 cuts.
    x = random_inputs(9, 3, seed=5)
    x["discount_t"] = torch.full((9, 3), 0.9, dtype=F64)
    x["discount_t"][3] = 0.9 if truncated else 0.0
    x["rho_tm1"][4] = 0.0
    whole = ops.vtrace(**x)
    first, second = ops.vtrace(**rows(x, 0, 4)), ops.vtrace(**rows(x, 5, 9))
    torch.testing.assert_close(whole.target, torch.cat((first.target, x["v_tm1"][4:5], second[0])))
    nothing = torch.zeros(1, 3, dtype=F64)
    torch.testing.assert_close(
        whole.advantage, torch.cat((first.advantage, nothing, second.advantage))
    )


def test_trace_separates_episodes_that_touch() -> None:
    x = random_inputs(9, 3, seed=6)
    x["discount_t"] = torch.full((9, 3), 0.9, dtype=F64)
    x["v_t"] = torch.randn(9, 3, dtype=F64)  # final observations are no rows here
    trace_t = torch.ones(9, 3)
    trace_t[3] = 0
    whole = ops.vtrace(**x, trace_t=trace_t)
    parts = [ops.vtrace(**rows(x, *span)) for span in ((0, 4), (4, 9))]
    for i in range(2):
        torch.testing.assert_close(whole[i], torch.cat([part[i] for part in parts]))
    assert not torch.allclose(whole.target, ops.vtrace(**x).target)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    # The truncation probe: reward 1 for ever, gamma 0.9, V = 10, one rollout over a time limit.
    ten, one = torch.full((5, 1), 10.0, dtype=F64), torch.ones(5, 1, dtype=F64)
    trace_t = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=F64).unsqueeze(1)
    out = ops.vtrace(ten, ten, one, 0.9 * one, one, trace_t=trace_t)
    torch.testing.assert_close(out.target, ten)
    terminal = ops.vtrace(ten, ten, one, 0.9 * one * trace_t, one)
    torch.testing.assert_close(
        terminal.target.flatten(), torch.tensor([2.71, 1.9, 1.0, 10.0, 10.0], dtype=F64)
    )


@pytest.mark.parametrize("length", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_rollout_length_does_not_matter_for_exact_values(length: int, lambda_: float) -> None:
    # A deterministic chain with its exact values, cut into rollouts of any length (T1.3).
    gamma, steps = 0.97, 12
    reward = torch.arange(steps, dtype=F64).sin().unsqueeze(1)
    value = torch.zeros(steps + 1, 1, dtype=F64)
    for t in reversed(range(steps)):
        value[t] = reward[t] + gamma * value[t + 1]
    discount = torch.full((steps, 1), gamma, dtype=F64)
    discount[-1] = 0
    for begin in range(0, steps, length):
        piece = slice(begin, begin + length)
        end = min(begin + length, steps)
        ones = torch.ones(end - begin, 1, dtype=F64)
        out = ops.vtrace(
            value[begin:end],
            value[begin + 1 : end + 1],
            reward[piece],
            discount[piece],
            ones,
            lambda_=lambda_,
        )
        torch.testing.assert_close(out.target, value[begin:end])
        torch.testing.assert_close(out.advantage, 0 * ones)


@pytest.mark.parametrize("cut", ["terminal", "rho", "trace"])
def test_nothing_leaks_back_over_an_episode_boundary(cut: str) -> None:
    def run(shift: float) -> ops.VTrace:
        x: dict[str, Any] = random_inputs(10, 2, seed=7)
        x["discount_t"] = torch.full((10, 2), 0.9, dtype=F64)
        x["v_t"] = x["v_t"].clone()
        x["v_tm1"] = x["v_tm1"].clone()
        if cut == "terminal":
            x["discount_t"][4] = 0
        elif cut == "rho":
            x["rho_tm1"][4] = 0
        else:
            x["trace_t"] = torch.ones(10, 2, dtype=F64)
            x["trace_t"][4] = 0
        for name in ("r_t", "v_tm1", "v_t"):
            x[name][5:] += shift
        return ops.vtrace(**x)

    before, after = run(0.0), run(1000.0)
    for i in range(2):
        assert torch.equal(before[i][:5], after[i][:5])  # bitwise
        assert not torch.equal(before[i][5:], after[i][5:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    # bfloat16 is unknown to numpy, so that it also takes the way of other devices.
    x = random_inputs(11, 2)
    for clip_c in (1.0, 2.0):  # both ways to accumulate
        exact = ops.vtrace(**x, clip_c=clip_c)
        cast = {name: value.to(dtype) for name, value in x.items()}
        out = ops.vtrace(**cast, clip_c=clip_c)
        assert out.target.dtype == out.advantage.dtype == dtype
        torch.testing.assert_close(out.target.double(), exact.target, rtol=0.05, atol=0.05)


def test_inputs_stay_as_they_were_and_get_no_gradient() -> None:
    x = {name: value.clone().requires_grad_() for name, value in random_inputs(6, 2).items()}
    copies = {name: value.detach().clone() for name, value in x.items()}
    for clip_c in (1.0, None):
        out = ops.vtrace(**x, clip_c=clip_c)
        assert not out.target.requires_grad
        assert not out.advantage.requires_grad
    assert all(torch.equal(x[name], copies[name]) for name in x)


def test_trailing_dimensions_broadcast() -> None:
    x = random_inputs(7, 2)
    wide = {name: value.unsqueeze(-1) for name, value in x.items()}
    scales = torch.linspace(0.5, 2.0, 42, dtype=F64)
    for name in ("v_tm1", "v_t", "r_t"):
        wide[name] = wide[name] * scales
    for clip_c in (1.0, None):  # both ways to accumulate
        out = ops.vtrace(**wide, clip_c=clip_c)
        assert out.target.shape == out.advantage.shape == (7, 2, 42)
        single = ops.vtrace(**x, clip_c=clip_c)
        torch.testing.assert_close(out.target, single.target.unsqueeze(-1) * scales)


@pytest.mark.parametrize(
    ("name", "shape"), [("rho_tm1", (5, 2, 1)), ("v_t", (4, 2)), ("r_t", (5, 1)), ("v_tm1", (5,))]
)
def test_wrong_shapes_are_named(name: str, shape: tuple[int, ...]) -> None:
    x = random_inputs(5, 2)
    x[name] = torch.ones(shape, dtype=F64)
    with pytest.raises(ValueError, match=rf"agree in \[T, B\], got .*{name} \[{shape[0]}"):
        ops.vtrace(**x)
    with pytest.raises(ValueError, match="trace_t"):
        ops.vtrace(**random_inputs(5, 2), trace_t=torch.ones(6, 2))


def test_from_logits_survives_an_action_that_was_not_allowed() -> None:
    # The row nobody chose carries action 0, which its mask may forbid: 0/0, hidden by `valid`.
    x = random_inputs(4, 1)
    del x["rho_tm1"]
    logits = torch.randn(4, 1, 3, dtype=F64)
    logits[2, 0, 0] = -torch.inf
    logits.requires_grad_()
    action = torch.zeros(4, 1, dtype=torch.int64)
    valid = torch.tensor([True, True, False, True]).unsqueeze(1)
    out = ops.vtrace_from_logits(logits.detach(), logits, action, *x.values(), valid=valid)
    assert torch.isfinite(out.target).all()
    assert out.advantage[2, 0] == 0
    entropy = ops.Categorical(logits).entropy()
    loss = ops.policy_gradient_loss(out.target_log_prob, out.advantage, valid)
    (loss + ops.entropy_loss(entropy, valid)).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[2] == 0).all()
    assert (logits.grad[1] != 0).any()
    with pytest.raises(ValueError, match="one shape"):
        ops.vtrace_from_logits(logits[:, :, :2], logits, action, *x.values())


@pytest.mark.parametrize("clip_rho", [1.0, 0.4, None])
def test_fixed_point_is_the_value_of_the_clipped_policy(clip_rho: float | None) -> None:
    # P10, equation 3: the fixed point is V of pi_rho ~ min(clip_rho mu, pi), here in closed form.
    # V-trace of every one-step transition, averaged exactly, must leave that V where it is, and
    # from anywhere else must lead there; no sampling.
    g = np.random.default_rng(3)
    n_states, n_actions, gamma = 4, 3, 0.9
    transition = g.dirichlet(np.ones(n_states), (n_states, n_actions))
    reward = g.normal(size=(n_states, n_actions))
    mu, pi = (g.dirichlet(np.ones(n_actions), n_states) for _ in range(2))
    pi_rho = np.minimum((np.inf if clip_rho is None else clip_rho) * mu, pi)
    pi_rho /= pi_rho.sum(1, keepdims=True)
    p = np.einsum("sa,sat->st", pi_rho, transition)
    exact = np.linalg.solve(np.eye(n_states) - gamma * p, (pi_rho * reward).sum(1))

    # All two-step paths from all states at once, as a batch: [T=2, B=paths].
    grid = np.indices((n_states, n_actions, n_states, n_actions, n_states)).reshape(5, -1)
    s0, a0, s1, a1, s2 = grid
    weight = mu[s0, a0] * transition[s0, a0, s1] * mu[s1, a1] * transition[s1, a1, s2]
    ratio, tensor = pi / mu, torch.from_numpy
    value = np.zeros(n_states)
    for _ in range(2000):
        out = ops.vtrace(
            tensor(value[np.stack((s0, s1))]),
            tensor(value[np.stack((s1, s2))]),
            tensor(reward[np.stack((s0, s1)), np.stack((a0, a1))]),
            torch.full((2, len(s0)), gamma, dtype=F64),
            tensor(ratio[np.stack((s0, s1)), np.stack((a0, a1))]),
            clip_rho=clip_rho,
            clip_c=min(1.0, clip_rho or 1.0),  # the paper assumes clip_c <= clip_rho
        )
        new = np.bincount(s0, weight * out.target[0].numpy())
        done, value = np.abs(new - value).max() < 1e-13, new
        if done:
            break
    np.testing.assert_allclose(value, exact, rtol=1e-9)

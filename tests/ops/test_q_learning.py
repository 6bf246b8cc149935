"""Q-learning against its definitions, written as loops over single numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from torchbeast import ops

F64 = torch.float64
GAMMA, EPS = 0.9, 1e-2
T, B, A = 14, 4, 3


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def h(x: float) -> float:
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + EPS * x


def h_inverse(y: float) -> float:
    """The x with h(x) = y, by bisection: nothing but h itself is trusted."""
    low, high = -1e6, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if h(middle) < y else (low, middle)
    return low


@pytest.mark.parametrize("lead", [(), (7,), (3, 5)])
def test_greedy_is_the_best_of_the_allowed(lead: tuple[int, ...]) -> None:
    q = torch.randint(-2, 2, (*lead, A)).float()  # few values: ties in most rows
    allowed = torch.rand(*lead, A) < 0.6
    for mask in (None, allowed, allowed.to(torch.int8)):
        action = ops.greedy(q, mask)
        assert action.shape == lead
        assert action.dtype == torch.int64
        for place in np.ndindex(*lead):
            may = [a for a in range(A) if mask is None or mask[place][a]]
            best = max(may, key=lambda a: (q[place][a].item(), -a), default=0)
            assert action[place] == best


def test_a_mask_of_other_actions_is_refused() -> None:
    with pytest.raises(ValueError, match="mask of 3 actions"):
        ops.greedy(torch.zeros(2, 3), torch.ones(2, 4))


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
@pytest.mark.parametrize("rest", [(), (4,), (4, 2)])
def test_chosen_is_the_part_of_the_action(lead: tuple[int, ...], rest: tuple[int, ...]) -> None:
    q = torch.randn(*lead, A, *rest, requires_grad=True)
    action = torch.randint(A, lead)
    part = ops.chosen(q, action)
    assert part.shape == (*lead, *rest)
    part.sum().backward()
    for place in np.ndindex(*lead):
        assert torch.equal(part[place], q[place][action[place]])
        for a in range(A):
            assert (q.grad[place][a] == float(a == action[place])).all()


@pytest.mark.parametrize("shape", [(5,), (4, A), (5, 2)])
def test_actions_of_another_batch_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[\.\.\., A, N\] for actions \[\.\.\.\] = "):
        ops.chosen(torch.zeros(shape), torch.zeros(5, 2, dtype=torch.int64))


def test_target_is_without_gradient_and_double_differs() -> None:
    reward, discount = torch.randn(50, dtype=F64), GAMMA * (torch.rand(50) < 0.8).to(F64)
    q_next, q_online = (torch.randn(50, A, dtype=F64, requires_grad=True) for _ in range(2))
    plain = ops.q_target(reward, discount, q_next, ops.greedy(q_next))
    double = ops.q_target(reward, discount, q_next, ops.greedy(q_online))
    assert not plain.requires_grad
    for i in range(50):
        best = max(range(A), key=lambda a: q_online[i, a].item())
        assert plain[i].item() == pytest.approx((reward[i] + discount[i] * q_next[i].max()).item())
        assert double[i].item() == pytest.approx((reward[i] + discount[i] * q_next[i, best]).item())
    assert (double <= plain).all()
    assert (double < plain).any()
    assert torch.equal(plain[discount == 0], reward[discount == 0])


def test_target_that_would_broadcast_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \[4, 1\], \[4\] and \[4\]"):
        ops.q_target(torch.ones(4, 1), torch.ones(4), torch.ones(4, 2), torch.ones(4).long())


@pytest.mark.parametrize("kappa", [0.3, 1.0, 5.0, None])
def test_huber_and_its_clipped_gradient(kappa: float | None) -> None:
    x = torch.linspace(-4, 4, 81, dtype=F64, requires_grad=True)
    loss = ops.huber(x, kappa)
    loss.sum().backward()
    k = math.inf if kappa is None else kappa
    for v, value, slope in zip(x.tolist(), loss.tolist(), x.grad.tolist(), strict=True):
        assert value == pytest.approx(v**2 / 2 if abs(v) <= k else k * (abs(v) - k / 2))
        assert slope == pytest.approx(max(-k, min(k, v)))


def sequence(steps: int, seed: int) -> dict[str, Tensor]:
    """Ends of both kinds, and after each the step from the final observation that nobody chose."""
    g = np.random.default_rng(seed)
    valid, discount = np.ones((steps, B), bool), np.full((steps, B), GAMMA)
    for t, b in itertools.product(range(steps - 1), range(B)):
        if valid[t, b] and g.random() < 0.3:
            valid[t + 1, b] = False
            discount[t, b] *= g.random() < 0.5
    return {
        "q_target": torch.from_numpy(g.normal(size=(steps + 1, B, A)) * 3),
        "next_action": torch.from_numpy(g.integers(A, size=(steps + 1, B))),
        "r_t": torch.from_numpy(g.normal(size=(steps, B)) * 5),
        "discount_t": torch.from_numpy(discount),
        "valid": torch.from_numpy(valid),
    }


def target_of(x: dict[str, Tensor], t: int, b: int, n: int) -> float:
    """Equation 1 of the paper for one step: walks until n steps, the end, or the last row."""
    total, discount = 0.0, 1.0
    for k in range(n):
        if t + k == len(x["r_t"]) or not x["valid"][t + k, b]:
            break
        total += discount * x["r_t"][t + k, b].item()
        discount *= x["discount_t"][t + k, b].item()
        arrived = t + k + 1
    q = x["q_target"][arrived, b, x["next_action"][arrived, b]].item()
    return h(total + discount * h_inverse(q))


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("steps", [1, 4, T])
@pytest.mark.parametrize("seed", range(3))
def test_transformed_targets_step_by_step(n: int, steps: int, seed: int) -> None:
    x = sequence(steps, seed)
    target = ops.transformed_n_step_targets(**x, n=n, eps=EPS)
    for t, b in itertools.product(range(steps), range(B)):
        expected = target_of(x, t, b, n) if x["valid"][t, b] else 0.0
        assert target[t, b].item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_sequences_have_every_kind_of_step() -> None:
    x = sequence(T, 0)
    after_end = ~x["valid"][1:]
    terminal = x["discount_t"][:-1] == 0
    assert (after_end & terminal).any()
    assert (after_end & ~terminal).any()
    assert x["valid"][0].all()


@pytest.mark.parametrize("what", ["q_target", "r_t", "discount_t", "next_action"])
def test_steps_that_nobody_chose_change_nothing(what: str) -> None:
    x = sequence(T, 0)
    before = ops.transformed_n_step_targets(**x, n=5)
    # Row t + 1 is what the step t arrives at: only after one that nobody chose is it free.
    changed = x[what].clone()
    free = ~x["valid"] if what in ("r_t", "discount_t") else torch.zeros(T + 1, B) != 0
    if what in ("q_target", "next_action"):
        free[0] = True  # of the first state no value is needed
        free[1:] = ~x["valid"]
    changed[free] = 1 if what == "next_action" else torch.nan
    assert not torch.equal(changed, x[what])
    assert torch.equal(before, ops.transformed_n_step_targets(**{**x, what: changed}, n=5))


def test_nothing_leaks_back_over_an_episode_boundary() -> None:
    x = sequence(T, 1)
    before = ops.transformed_n_step_targets(**x, n=5)
    for b in range(B):
        for start in (~x["valid"][:, b]).nonzero().flatten().tolist():
            q, r = x["q_target"].clone(), x["r_t"].clone()
            q[start + 1 :, b] += 100
            r[start:, b] += 100
            after = ops.transformed_n_step_targets(**{**x, "q_target": q, "r_t": r}, n=5)
            assert torch.equal(before[:start], after[:start])  # bitwise
            assert start == T - 1 or not torch.equal(before[start:], after[start:])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_keeps_dtype_and_inputs_and_gives_no_gradient(dtype: torch.dtype) -> None:
    x = sequence(T, 2)
    exact = ops.transformed_n_step_targets(**x, n=3)
    cast = {name: v.to(dtype) if v.is_floating_point() else v for name, v in x.items()}
    copies = {name: v.clone() for name, v in cast.items()}
    cast["q_target"].requires_grad_()
    target = ops.transformed_n_step_targets(**cast, n=3)
    assert target.dtype == dtype
    assert not target.requires_grad
    torch.testing.assert_close(target.double(), exact, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(cast[name], copies[name]) for name in cast)


@pytest.mark.parametrize("rows", [T, T + 2])
def test_values_of_other_steps_are_refused(rows: int) -> None:
    x = sequence(T, 0) | {"q_target": torch.zeros(rows, B, A, dtype=F64)}
    x["next_action"] = torch.zeros(rows, B, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"v_t \[{rows - 1}, {B}\], r_t \[{T}, {B}\]"):
        ops.transformed_n_step_targets(**x, n=3)


def test_no_value_is_read_back_from_the_device() -> None:
    # Tensors on "meta" have no values: what asks for one, or makes a tensor elsewhere, fails.
    x = {name: v.to("meta") for name, v in sequence(T, 0).items()}
    assert ops.transformed_n_step_targets(**x, n=3).is_meta
    q, allowed = torch.ones(B, A, device="meta"), torch.ones(B, A, device="meta") > 0
    action = ops.greedy(q, allowed)
    assert ops.huber(ops.q_target(q[:, 0], q[:, 1], q, action)).is_meta

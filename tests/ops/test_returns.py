"""GAE, lambda-returns and n-step returns against their definitions, written as plain loops."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from torchbeast import ops

F64 = torch.float64
GAMMA = 0.9


class Rows(NamedTuple):
    """A rollout as `data/rollout.py` has it: T + 1 rows, each written when it arrives."""

    value: Tensor
    reward: Tensor
    discount: Tensor
    first: Tensor

    def transitions(self) -> dict[str, Tensor]:
        return {
            "v_tm1": self.value[:-1],
            "v_t": self.value[1:],
            "r_t": self.reward[1:],
            "discount_t": GAMMA * self.discount[1:],
            "valid": ~self.first[1:],
        }


def random_rows(steps: int, seed: int, batch: int = 4) -> Rows:
    g = np.random.default_rng(seed)
    value, reward = g.normal(size=(2, steps + 1, batch))
    ended, terminal = g.random((2, steps + 1, batch)) < [[[0.35]], [[0.5]]]
    first = np.zeros((steps + 1, batch), bool)
    first[0] = g.random(batch) < 0.5
    for t in range(1, steps + 1):
        ended[t - 1] &= ~first[t - 1]  # an episode has a step at least
        first[t] = ended[t - 1]
    reward[first] = 0
    discount = 1.0 - (ended & terminal & ~first)
    return Rows(*(torch.from_numpy(x) for x in (value, reward, discount, first)))


def window(rows: Rows, t: int, b: int, n: int) -> tuple[float, float, int, bool]:
    """Reward, discount, length and completeness of the n steps from row t, as in the books."""
    total, discount, m, ended = 0.0, 1.0, 0, False
    while m < n and not ended and t + m + 1 < len(rows.value) and not rows.first[t + m + 1, b]:
        m += 1
        total += discount * rows.reward[t + m, b].item()
        discount *= GAMMA * rows.discount[t + m, b].item()
        ended = rows.discount[t + m, b].item() == 0
    ended = ended or (t + m + 1 < len(rows.value) and bool(rows.first[t + m + 1, b]))
    return total, discount, m, ended or m == n


def lambda_return(rows: Rows, t: int, b: int, lambda_: float) -> float:
    """(1 - lambda) sum_n lambda^(n-1) G^n, all weight that is left on the longest."""

    def g(n: int) -> float:
        total, discount, m, _ = window(rows, t, b, n)
        return total + discount * rows.value[t + m, b].item()

    longest = window(rows, t, b, 10**6)[2]
    mixed = sum((1 - lambda_) * lambda_ ** (n - 1) * g(n) for n in range(1, longest))
    return mixed + lambda_ ** (longest - 1) * g(longest)


def everywhere(rows: Rows, function: Any) -> Tensor:
    """function(t, b) of all valid transitions, 0 at others, [T, B]."""
    out = torch.zeros_like(rows.value[1:])
    for t, b in itertools.product(*map(range, out.shape)):
        if not rows.first[t + 1, b]:
            out[t, b] = function(t, b)
    return out


def without_baseline(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in x.items() if name != "v_tm1"}


def without_values(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in x.items() if not name.startswith("v_")}


def test_random_rows_have_every_kind_of_step() -> None:
    rows = [random_rows(12, seed) for seed in range(3)]
    after = torch.cat([r.first[1:] for r in rows])
    assert after.any()
    assert torch.cat([r.first[0] for r in rows]).any()
    terminal = torch.cat([r.discount[:-1] == 0 for r in rows])
    assert (after & terminal).any()
    assert (after & ~terminal).any()
    assert not (terminal & ~after).any()
    assert not any((r.first[1:] & r.first[:-1]).any() for r in rows)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 0.95, 1.0])
def test_gae_and_lambda_returns_are_the_mix_of_n_step_returns(seed: int, lambda_: float) -> None:
    rows = random_rows(1 + 2 * seed, seed)
    x = rows.transitions()
    expected = everywhere(rows, lambda t, b: lambda_return(rows, t, b, lambda_))
    returns = ops.lambda_returns(**without_baseline(x), lambda_=lambda_)
    torch.testing.assert_close(returns, expected)
    advantage = ops.gae(**x, lambda_=lambda_)
    torch.testing.assert_close(advantage, expected - x["valid"] * x["v_tm1"])
    assert (advantage[~x["valid"]] == 0).all()
    assert (returns[~x["valid"]] == 0).all()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
def test_n_step_returns_are_plain_windows(seed: int, n: int) -> None:
    rows = random_rows(1 + 2 * seed, seed)
    x = rows.transitions()
    out = ops.n_step_returns(**without_values(x), n=n)
    windows = [everywhere(rows, lambda t, b, i=i: window(rows, t, b, n)[i]) for i in range(4)]
    torch.testing.assert_close(out.reward, windows[0])
    torch.testing.assert_close(out.discount, windows[1])
    begin = torch.arange(len(out.last)).unsqueeze(1)
    assert torch.equal((1 + out.last - begin)[x["valid"]], windows[2].long()[x["valid"]])
    assert torch.equal(out.full, windows[3].bool())
    bootstrap = x["v_t"].gather(0, (begin + windows[2].long() - 1).clamp(min=0))
    torch.testing.assert_close(out.target(x["v_t"]), windows[0] + windows[1] * bootstrap)


def test_limits_of_lambda() -> None:
    rows = random_rows(20, seed=1)
    x = rows.transitions()
    delta = x["r_t"] + x["discount_t"] * x["v_t"] - x["v_tm1"]
    torch.testing.assert_close(ops.gae(**x, lambda_=0.0), delta * x["valid"])
    longest = ops.n_step_returns(**without_values(x), n=20).target(x["v_t"])
    monte_carlo = ops.lambda_returns(**without_baseline(x), lambda_=1.0)
    torch.testing.assert_close(monte_carlo, longest)
    one = ops.n_step_returns(**without_values(x), n=1).target(x["v_t"])
    torch.testing.assert_close(ops.lambda_returns(**without_baseline(x), lambda_=0.0), one)


@pytest.mark.parametrize("lambda_", [0.7, 1.0])
def test_gae_is_v_trace_on_policy(lambda_: float) -> None:
    x = random_rows(20, seed=2).transitions()
    advantage = ops.gae(**x, lambda_=lambda_)
    rho = x.pop("valid").to(F64)
    target = ops.vtrace(**x, rho_tm1=rho, lambda_=lambda_).target
    torch.testing.assert_close(target - x["v_tm1"], advantage)


def exact_rows() -> Rows:
    """A deterministic chain with its exact values: a time limit in the middle, then its end."""
    reward = torch.arange(6, dtype=F64).sin()  # on the way to state 1, 2, ...
    value = torch.zeros(7, dtype=F64)
    for s in reversed(range(6)):
        value[s] = reward[s] + GAMMA * value[s + 1]
    states = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 0, 1])
    first = states == 0
    arrived = torch.where(first, 0.0, reward[states - 1])
    discount = (states != 6).to(F64)
    return Rows(*(x.unsqueeze(1) for x in (value[states], arrived, discount, first)))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 12])
def test_rollout_length_does_not_matter_for_exact_values(length: int) -> None:
    rows = exact_rows()
    for begin in range(0, 12, length):
        x = Rows(*(field[begin : begin + length + 1] for field in rows)).transitions()
        value = x["v_tm1"] * x["valid"]
        for lambda_ in (0.0, 0.7, 1.0):
            torch.testing.assert_close(ops.gae(**x, lambda_=lambda_), 0 * value)
            returns = ops.lambda_returns(**without_baseline(x), lambda_=lambda_)
            torch.testing.assert_close(returns, value)
        for n in (1, 2, 4, 20):
            target = ops.n_step_returns(**without_values(x), n=n).target(x["v_t"])
            torch.testing.assert_close(target, value)


def all_of(**x: Tensor) -> list[Tensor]:
    windows = ops.n_step_returns(**without_values(x), n=3)
    return [
        ops.gae(**x, lambda_=0.9),
        ops.lambda_returns(**without_baseline(x), lambda_=0.9),
        windows.target(x["v_t"]),
        windows.discount,
    ]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_leaks_back_over_an_episode_boundary(seed: int) -> None:
    rows = random_rows(16, seed, batch=1)
    starts = (rows.first[2:, 0].nonzero() + 2).flatten().tolist()
    assert starts
    before = all_of(**rows.transitions())
    for start in starts:
        value, reward, discount, first = (field.clone() for field in rows)
        value[start:] += 1000
        reward[start:] += 1000
        discount[start:] *= 0.5
        after = all_of(**Rows(value, reward, discount, first).transitions())
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[: start - 1], new[: start - 1])  # bitwise
        assert start == 16 or not torch.equal(before[0][start:], after[0][start:])


def test_trace_separates_episodes_that_touch() -> None:
    # The same steps with and without the ones that nobody chose: a time limit after step 3, an
    # end after step 8. Values of final observations are no one's v_tm1 then.
    x = random_rows(11, seed=0, batch=3).transitions()
    valid = torch.ones(11, 3, dtype=torch.bool)
    valid[[4, 9]] = False
    x |= {"discount_t": torch.full((11, 3), GAMMA, dtype=F64), "valid": valid}
    x["discount_t"][8] = 0
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 10]
    touching = {name: field[kept] for name, field in x.items() if name != "valid"}
    trace_t = torch.ones(9, 3, dtype=F64)
    trace_t[[3, 7]] = 0
    for whole, cut in zip(all_of(**x), all_of(**touching, trace_t=trace_t), strict=True):
        torch.testing.assert_close(whole[kept], cut)
    for cut, leaky in zip(all_of(**touching, trace_t=trace_t), all_of(**touching), strict=True):
        assert not torch.allclose(cut[:4], leaky[:4])


def test_steps_that_nobody_chose_may_hold_anything() -> None:
    rows = random_rows(16, seed=3)
    x = rows.transitions()
    clean = all_of(**x)
    x["r_t"] = x["r_t"].masked_fill(~x["valid"], torch.nan)
    for old, new in zip(clean, all_of(**x), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keeps_dtype_and_inputs_and_gives_no_gradient(dtype: torch.dtype) -> None:
    x = random_rows(9, seed=4).transitions()
    exact = all_of(**x)
    cast = {name: v.to(dtype) if v.is_floating_point() else v for name, v in x.items()}
    copies = {name: v.clone() for name, v in cast.items()}
    for name in ("v_tm1", "v_t"):
        cast[name].requires_grad_()
    out = all_of(**cast)
    assert all(torch.equal(cast[name], copies[name]) for name in cast)
    for value, right in zip(out, exact, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), right, rtol=0.05, atol=0.05)
    assert not out[0].requires_grad
    assert not out[1].requires_grad


@pytest.mark.parametrize("name", ["v_tm1", "v_t", "r_t", "discount_t", "valid", "trace_t"])
def test_wrong_shapes_are_named(name: str) -> None:
    x = random_rows(5, seed=0).transitions() | {"trace_t": torch.ones(5, 4)}
    x[name] = torch.ones(6, 4)
    message = rf"agree in \[T, B\], got .*{name} \[6, 4\]"
    with pytest.raises(ValueError, match=message):
        ops.gae(**x, lambda_=0.9)
    if name != "v_tm1":
        with pytest.raises(ValueError, match=message):
            ops.lambda_returns(**without_baseline(x), lambda_=0.9)
    if not name.startswith("v_"):
        with pytest.raises(ValueError, match=message):
            ops.n_step_returns(**without_values(x), n=2)


def test_no_window_of_no_steps() -> None:
    with pytest.raises(ValueError, match="n of at least 1, got 0"):
        ops.n_step_returns(torch.ones(3, 1), torch.ones(3, 1), 0)

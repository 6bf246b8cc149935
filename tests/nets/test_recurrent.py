"""The LSTM forgets exactly where episodes begin, on each of its ways to compute."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchbeast.nets.recurrent import ResetLSTM

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
WAYS = ["unroll", "_loop", "_stretches"]


def unroll(lstm, way, x, first, state):
    if way == "unroll":
        return lstm.unroll(x, first, state)
    return getattr(lstm, way)(x, first, first.any(1).tolist(), state)


def by_cell(lstm, x, first, state):
    """The definition: one row at a time, through torch's own LSTM."""
    outputs = []
    for row, reset in zip(x, first, strict=True):
        keep = (~reset).to(x.dtype).view(1, -1, 1)
        output, state = lstm(row.unsqueeze(0), (state[0] * keep, state[1] * keep))
        outputs.append(output)
    return torch.cat(outputs), state


def make(rows, envs, layers, dtype, seed=0):
    torch.manual_seed(seed)
    lstm = ResetLSTM(5, 4, layers).to(dtype)
    x = torch.randn(rows, envs, 5, dtype=dtype, requires_grad=True)
    state = tuple(torch.randn(layers, envs, 4, dtype=dtype, requires_grad=True) for _ in range(2))
    return lstm, x, state


def gradients(lstm, x, state, result):
    output, (h, c) = result
    loss = (output * output.detach().cos()).sum() + (h * 0.3).sum() + (c * c.detach()).sum()
    return torch.autograd.grad(loss, [x, *state, *lstm.parameters()])


def pytest_generate_tests(metafunc):
    """Makes one test of each golden case; `--golden DIR` reads others."""
    if "case" in metafunc.fixturenames:
        root = Path(metafunc.config.getoption("--golden", None) or GOLDEN)
        cases = json.loads((root / "lstm_reset.json").read_text())["cases"]
        metafunc.parametrize("case", cases, ids=[case["name"] for case in cases])


@pytest.mark.parametrize("way", WAYS)
def test_golden(case, way):
    inputs = {k: torch.tensor(v, dtype=torch.float64) for k, v in case["inputs"].items()}
    size, features = inputs["weight_hh"].shape[1], inputs["weight_ih"].shape[1]
    lstm = ResetLSTM(features, size).double()
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    lstm.load_state_dict({f"{name}_l0": inputs[name] for name in names})
    state = (inputs["h0"].unsqueeze(0), inputs["c0"].unsqueeze(0))
    output, (h, c) = unroll(lstm, way, inputs["x"], inputs["done_before"].bool(), state)
    expected = {k: torch.tensor(v, dtype=torch.float64) for k, v in case["expected"].items()}
    close = {"rtol": 1e-8, "atol": 1e-10}
    torch.testing.assert_close(output, expected["output"], **close)
    torch.testing.assert_close(h[0], expected["h_final"], **close)
    torch.testing.assert_close(c[0], expected["c_final"], **close)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=25, deadline=None)
@given(
    pattern=st.integers(1, 24).flatmap(
        lambda rows: st.integers(1, 4).flatmap(
            lambda envs: st.lists(
                st.lists(st.booleans(), min_size=envs, max_size=envs),
                min_size=rows,
                max_size=rows,
            )
        )
    ),
    layers=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_any_pattern_equals_the_step_loop_with_its_gradient(way, pattern, layers, seed):
    first = torch.tensor(pattern)
    lstm, x, state = make(*first.shape, layers, torch.float64, seed)
    fast = unroll(lstm, way, x, first, state)
    slow = by_cell(lstm, x, first, state)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        gradients(lstm, x, state, fast), gradients(lstm, x, state, slow), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("probability", [0.0, 0.02, 0.3])
def test_float32_equals_the_step_loop(way, probability):
    lstm, x, state = make(48, 6, 1, torch.float32)
    first = torch.rand(48, 6) < probability
    fast, slow = (f(lstm, x, first, state) for f in (lambda *a: unroll(a[0], way, *a[1:]), by_cell))
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        gradients(lstm, x, state, fast), gradients(lstm, x, state, slow), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("way", WAYS)
def test_nothing_crosses_the_first_row_of_an_episode(way):
    lstm, x, state = make(20, 3, 2, torch.float32)
    first = torch.zeros(20, 3, dtype=torch.bool)
    first[7, 1] = True
    before, _ = unroll(lstm, way, x, first, state)
    poisoned = x.detach().clone()
    poisoned[:7, 1] = float("nan")
    poisoned.requires_grad_()
    after, last = unroll(lstm, way, poisoned, first, state)
    assert torch.equal(before[7:], after[7:])
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert all(torch.isfinite(part).all() for part in last)
    (gradient,) = torch.autograd.grad(before[7:, 1].sum(), x)
    assert gradient[:7, 1].abs().max() == 0


def test_the_state_before_the_first_row_is_forgotten_too():
    lstm, x, state = make(4, 2, 1, torch.float32)
    first = torch.tensor([[True, False]] + [[False, False]] * 3)
    _, fresh = lstm.unroll(x, first, lstm.initial_state(2))
    _, used = lstm.unroll(x, first, state)
    assert torch.equal(fresh[1][:, 0], used[1][:, 0])
    assert not torch.equal(fresh[1][:, 1], used[1][:, 1])


def test_few_resets_take_the_kernel_and_many_the_loop(monkeypatch):
    lstm, x, state = make(40, 2, 1, torch.float32)
    taken = []
    for way in ("_loop", "_stretches"):
        monkeypatch.setattr(lstm, way, lambda *a, way=way: taken.append(way))
    first = torch.zeros(40, 2, dtype=torch.bool)
    first[0] = True
    lstm.unroll(x, first, state)
    first[10:20] = True
    lstm.unroll(x, first, state)
    lstm.unroll(x[:1], first[:1], state)
    assert taken == ["_stretches", "_loop", "_loop"]

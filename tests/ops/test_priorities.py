"""Priorities and importance weights, also as what they are for: an unbiased mean."""

from __future__ import annotations

import pytest
import torch

from torchbeast import ops

T, B = 9, 6


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_the_formula(beta: float, dtype: torch.dtype) -> None:
    oversampling = torch.rand(32, dtype=dtype) * 5 + 0.01
    raw = [x**-beta for x in oversampling.tolist()]
    weights = ops.importance_weights(oversampling, beta)
    assert weights.dtype == dtype
    assert weights.tolist() == pytest.approx([x / max(raw) for x in raw], rel=1e-5)
    assert weights.max() == 1


def test_weights_of_very_rare_samples_do_not_overflow() -> None:
    weights = ops.importance_weights(torch.tensor([1e-40, 1.0, 1e10]), 1.0)
    assert weights[0] == 1
    assert weights.isfinite().all()


def test_full_correction_gives_the_uniform_mean() -> None:
    probability = torch.rand(50, dtype=torch.float64) + 0.02
    probability /= probability.sum()
    value = torch.randn(50, dtype=torch.float64) + 100 * probability
    weights = ops.importance_weights(50 * probability, 1.0)
    weighted = (probability * weights * value).sum() / (probability * weights).sum()
    torch.testing.assert_close(weighted, value.mean())
    assert not torch.isclose((probability * value).sum(), value.mean(), rtol=1e-2)


@pytest.mark.parametrize("eta", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_sequence_priority_is_over_valid_steps_only(eta: float, kind: torch.dtype) -> None:
    td = torch.randn(T, B, requires_grad=True)
    valid = torch.rand(T, B) < 0.5
    valid[:, 0], valid[:, 1] = False, True
    priority = ops.sequence_priority(td, valid.to(kind), eta)
    assert not priority.requires_grad
    for b in range(B):
        sizes = [abs(td[t, b].item()) for t in range(T) if valid[t, b]]
        mean = sum(sizes) / max(len(sizes), 1)
        assert priority[b].item() == pytest.approx(eta * max(sizes, default=0) + (1 - eta) * mean)
    assert priority[0] == 0
    everything = ops.sequence_priority(td, torch.ones(T, B), eta)
    torch.testing.assert_close(ops.sequence_priority(td, eta=eta), everything)


def test_steps_that_do_not_count_may_hold_anything() -> None:
    td, valid = torch.randn(T, B), torch.rand(T, B) < 0.5
    before = ops.sequence_priority(td, valid)
    assert torch.equal(ops.sequence_priority(td.masked_fill(~valid, torch.nan), valid), before)
    assert not torch.equal(ops.sequence_priority(td * 2, valid), before)


def test_a_mask_of_other_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"valid of shape \[9, 6\], got \[9, 1\]"):
        ops.sequence_priority(torch.ones(T, B), torch.ones(T, 1))


def test_no_value_is_read_back_from_the_device() -> None:
    td = torch.ones(T, B, device="meta")
    assert ops.sequence_priority(td, td > 0).is_meta
    assert ops.importance_weights(td, 0.6).is_meta

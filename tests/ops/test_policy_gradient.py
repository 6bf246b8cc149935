"""Policy-gradient, entropy and baseline losses: values, gradients and masks."""

from __future__ import annotations

import pytest
import torch

from torchbeast import ops

T, B, A = 4, 3, 5


def test_gradient_is_the_score_times_the_advantage() -> None:
    logits = torch.randn(T, B, A, requires_grad=True)
    action, advantage = torch.randint(A, (T, B)), torch.randn(T, B, requires_grad=True)
    loss = ops.policy_gradient_loss(ops.Categorical(logits).log_prob(action), advantage)
    assert loss.shape == (T, B)
    loss.sum().backward()
    one_hot = torch.nn.functional.one_hot(action, A)
    expected = -(one_hot - torch.softmax(logits, -1)) * advantage.unsqueeze(-1)
    torch.testing.assert_close(logits.grad, expected.detach())
    assert advantage.grad is None


def test_descending_the_entropy_loss_raises_entropy() -> None:
    logits = torch.randn(T, B, A, requires_grad=True)
    before = ops.Categorical(logits).entropy()
    loss = ops.entropy_loss(before)
    torch.testing.assert_close(loss, -before)
    loss.sum().backward()
    after = ops.Categorical(logits - 0.1 * logits.grad).entropy()
    assert (after > before).all()


def test_baseline_loss_pulls_the_value_only() -> None:
    value, target = (torch.randn(T, B, requires_grad=True) for _ in range(2))
    loss = ops.baseline_loss(value, target)
    torch.testing.assert_close(loss, 0.5 * (target - value) ** 2)
    loss.sum().backward()
    torch.testing.assert_close(value.grad, (value - target).detach())
    assert target.grad is None


def test_masked_rows_contribute_nothing() -> None:
    valid = torch.rand(T, B) > 0.4
    valid[0, 0], valid[0, 1] = False, True
    x = torch.randn(T, B, requires_grad=True)
    y = torch.randn(T, B)
    for function in (ops.policy_gradient_loss, ops.baseline_loss):
        x.grad = None
        loss = function(x, y, valid)
        torch.testing.assert_close(loss[valid], function(x, y)[valid])
        loss.sum().backward()
        assert (loss[~valid] == 0).all()
        assert (x.grad[~valid] == 0).all()
        assert (x.grad[valid] != 0).all()
    torch.testing.assert_close(ops.entropy_loss(x, valid), torch.where(valid, -x, 0.0))


def test_masked_rows_may_hold_anything() -> None:
    valid = torch.tensor([[True, False, False]])
    log_prob = torch.tensor([[-1.0, -torch.inf, torch.nan]], requires_grad=True)
    loss = ops.policy_gradient_loss(log_prob, torch.ones(1, 3), valid)
    loss.sum().backward()
    assert loss.tolist() == [[1.0, 0.0, 0.0]]
    assert log_prob.grad.tolist() == [[-1.0, 0.0, 0.0]]


def test_batch_gradient_is_the_sum_of_single_ones() -> None:
    logits = torch.randn(T, B, A, requires_grad=True)
    action, advantage = torch.randint(A, (T, B)), torch.randn(T, B)
    loss = ops.policy_gradient_loss(ops.Categorical(logits).log_prob(action), advantage)
    (whole,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    singles = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in loss.flatten()]
    torch.testing.assert_close(whole, sum(singles))


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("ratio", [0.5, 0.85, 1.0, 1.15, 2.0])
def test_surrogate_stops_where_the_policy_has_moved_enough(advantage: float, ratio: float) -> None:
    log_ratio = torch.tensor([ratio]).log().requires_grad_()
    loss = ops.clipped_surrogate_loss(log_ratio, torch.tensor([advantage]), 0.2)
    loss.sum().backward()
    far = ratio > 1.2 if advantage > 0 else ratio < 0.8
    reached = 1.2 if advantage > 0 else 0.8
    assert loss.item() == pytest.approx(-advantage * (reached if far else ratio))
    assert log_ratio.grad.item() == pytest.approx(0.0 if far else -advantage * ratio)


def test_surrogate_of_the_same_policy_is_the_policy_gradient() -> None:
    log_ratio = torch.zeros(T, B, requires_grad=True)
    advantage = torch.randn(T, B, requires_grad=True)
    ops.clipped_surrogate_loss(log_ratio, advantage, 0.1).sum().backward()
    torch.testing.assert_close(log_ratio.grad, -advantage.detach())
    assert advantage.grad is None


def test_surrogate_masks_even_what_has_no_gradient() -> None:
    valid = torch.tensor([[True, False, False, False]])
    log_ratio = torch.tensor([[0.1, torch.inf, torch.nan, 200.0]], requires_grad=True)
    advantage = torch.tensor([[1.0, -1.0, -1.0, torch.nan]])
    loss = ops.clipped_surrogate_loss(log_ratio, advantage, 0.2, valid)
    loss.sum().backward()
    assert (loss[~valid] == 0).all()
    assert (log_ratio.grad[~valid] == 0).all()
    assert log_ratio.grad[0, 0].item() == pytest.approx(-(torch.tensor(0.1).exp().item()))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_standardise_looks_at_valid_ones_only(dtype: torch.dtype) -> None:
    valid = torch.tensor([[1, 0, 1], [1, 1, 0]]).to(dtype)
    chosen = valid != 0
    advantage = 5 + 3 * torch.randn(2, 3)
    advantage[~chosen] = torch.nan
    out = ops.standardise(advantage, valid)
    numbers = advantage[chosen]
    torch.testing.assert_close(out[chosen], (numbers - numbers.mean()) / numbers.std(correction=1))
    assert (out[~chosen] == 0).all()
    torch.testing.assert_close(ops.standardise(numbers), out[chosen])


def test_standardise_leaves_what_has_no_deviation() -> None:
    assert ops.standardise(torch.tensor([3.0])).tolist() == [3.0]
    assert ops.standardise(torch.tensor([])).tolist() == []
    x = torch.tensor([[3.0, torch.nan]])
    assert ops.standardise(x, torch.tensor([[True, False]])).tolist() == [[3.0, 0.0]]
    assert ops.standardise(x, torch.tensor([[False, False]])).tolist() == [[0.0, 0.0]]
    assert ops.standardise(torch.full((4,), 2.0)).tolist() == [0.0] * 4


def test_approximate_kl_is_the_kl_on_average() -> None:
    # All actions, weighted by the old policy: the exact mean, no sampling.
    old, new = (ops.Categorical(torch.randn(T, B, A, dtype=torch.float64)) for _ in range(2))
    kl = ops.approximate_kl(new.log_probs - old.log_probs)
    assert (kl >= 0).all()
    torch.testing.assert_close((old.log_probs.exp() * kl).sum(-1), old.kl(new))
    assert ops.approximate_kl(torch.tensor(1e-4)).item() == pytest.approx(5e-9, rel=1e-3)


@pytest.mark.parametrize(("value", "gradient"), [(0.5, 0.0), (0.1, -0.9), (-0.5, -1.5), (1.4, 0.4)])
def test_clipped_baseline_loss_takes_the_larger_error(value: float, gradient: float) -> None:
    # From 0 towards 1, at most 0.2 is rewarded; moving away, or beyond it, is always an error.
    v = torch.tensor([value], requires_grad=True)
    old, target = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)
    loss = ops.clipped_baseline_loss(v, old, target, clip=0.2)
    loss.sum().backward()
    error = max(abs(value - 1), abs(min(max(value, -0.2), 0.2) - 1))
    assert loss.item() == pytest.approx(0.5 * error**2)
    expected = 0.0 if value > 0.2 else gradient
    assert v.grad.item() == pytest.approx(expected)
    assert old.grad is None
    assert target.grad is None


def test_clipped_baseline_loss_masks_and_without_a_bound_is_the_plain_one() -> None:
    value, old, target = torch.randn(3, T, B)
    valid = torch.rand(T, B) > 0.4
    loss = ops.clipped_baseline_loss(value, old, target, 1e6, valid)
    torch.testing.assert_close(loss, ops.baseline_loss(value, target, valid))
    nothing = ops.clipped_baseline_loss(value / 0, old, target, 0.2, torch.zeros(T, B))
    assert (nothing == 0).all()
    with pytest.raises(ValueError, match=r"expected value and old_value and target of one shape"):
        ops.clipped_baseline_loss(value, old[:1], target, 0.2)


def surrogate(*args: torch.Tensor) -> torch.Tensor:
    return ops.clipped_surrogate_loss(*args[:2], 0.2, *args[2:])


@pytest.mark.parametrize("function", [ops.policy_gradient_loss, ops.baseline_loss, surrogate])
def test_shapes_must_agree(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"\[4, 3\] and \[4, 1\]"):
        function(torch.zeros(4, 3), torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"valid of shape \[4, 3\], got \[5, 3\]"):
        function(torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(5, 3))

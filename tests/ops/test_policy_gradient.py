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


@pytest.mark.parametrize("function", [ops.policy_gradient_loss, ops.baseline_loss])
def test_shapes_must_agree(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"\[4, 3\] and \[4, 1\]"):
        function(torch.zeros(4, 3), torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"valid of shape \[4, 3\], got \[5, 3\]"):
        function(torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(5, 3))

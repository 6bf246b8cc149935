"""Q-function policy gradients against their definitions, written as loops over single numbers."""

from __future__ import annotations

import math

import pytest
import torch

from torchbeast import ops

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(7,), (3, 4)])
def test_the_target_is_without_gradient(shape: tuple[int, ...]) -> None:
    reward, value = (torch.randn(shape, dtype=F64, requires_grad=True) for _ in range(2))
    discount = 0.9 * (torch.rand(shape) < 0.6).to(F64)
    target = ops.td_target(reward, discount, value)
    assert not target.requires_grad
    pairs = zip(*(x.flatten().tolist() for x in (reward, discount, value)), strict=True)
    assert target.flatten().tolist() == pytest.approx([r + g * v for r, g, v in pairs])
    assert torch.equal(target[discount == 0], reward[discount == 0])


def test_what_would_broadcast_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reward, discount, value of one shape, got \[\[4\], \[4"):
        ops.td_target(torch.ones(4), torch.ones(4), torch.ones(4, 1))
    with pytest.raises(ValueError, match=r"q, log_prob of one shape, got \[\[2, 4\], \[4\]\]"):
        ops.soft_value(torch.ones(2, 4), torch.ones(4), 0.2)


@pytest.mark.parametrize("temperature", [0.0, 0.3, torch.tensor(0.3, dtype=F64)])
def test_the_soft_value_adds_entropy(temperature: float) -> None:
    q, log_prob = (torch.randn(9, dtype=F64, requires_grad=True) for _ in range(2))
    value = ops.soft_value(q, log_prob, temperature)
    alpha = float(temperature)
    pairs = zip(q.tolist(), log_prob.tolist(), strict=True)
    assert value.tolist() == pytest.approx([a - alpha * b for a, b in pairs])
    value.sum().backward()
    assert q.grad.tolist() == [1] * 9
    assert log_prob.grad.tolist() == pytest.approx([-alpha] * 9)


@pytest.mark.parametrize(("entropy", "way"), [(-3.0, 1), (-1.0, -1)])
def test_the_temperature_rises_where_entropy_lacks(entropy: float, way: int) -> None:
    log_alpha = torch.tensor(-0.7, dtype=F64, requires_grad=True)
    log_prob = torch.full((5,), -entropy, dtype=F64, requires_grad=True)
    loss = ops.temperature_loss(log_alpha, log_prob, target_entropy=-2.0)
    assert loss.tolist() == pytest.approx([0.7 * (-entropy - 2)] * 5)
    loss.mean().backward()
    assert log_prob.grad is None
    assert log_alpha.grad.item() == pytest.approx(entropy + 2)
    assert math.copysign(1, -log_alpha.grad.item()) == way


def test_exploring_adds_normal_noise_within_the_bounds() -> None:
    action = torch.tensor([-0.95, 0.0, 0.6]).expand(50_000, 3)
    explored = ops.explored(action, torch.randn_like(action), 0.2)
    assert explored.min() == -1
    assert explored.max() == 1
    assert explored[:, 1].std().item() == pytest.approx(0.2, rel=0.02)
    assert explored[:, 1].mean().item() == pytest.approx(0.0, abs=0.005)
    # 0.05 is a quarter of the deviation, so 40 % of the draws lie beyond the bound.
    assert (explored[:, 0] == -1).float().mean().item() == pytest.approx(0.4013, abs=0.01)
    assert torch.equal(action, torch.tensor([-0.95, 0.0, 0.6]).expand(50_000, 3))
    assert torch.equal(ops.explored(action, torch.randn_like(action), 0.0), action)


@pytest.mark.parametrize(("deviation", "clip"), [(0.2, 0.5), (1.0, 0.1), (0.3, 3.0), (0.0, 0.5)])
def test_smoothing_clips_the_noise_and_then_the_action(deviation: float, clip: float) -> None:
    action, noise = torch.rand(40, 3, dtype=F64) * 2 - 1, torch.randn(40, 3, dtype=F64) * 2
    smoothed = ops.smoothed(action, noise, deviation, clip)
    for a, n, s in zip(*(x.flatten().tolist() for x in (action, noise, smoothed)), strict=True):
        assert s == pytest.approx(max(-1, min(1, a + max(-clip, min(clip, deviation * n)))))

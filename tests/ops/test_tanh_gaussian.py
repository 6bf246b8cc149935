"""The squashed Gaussian against its density, however far out the numbers before tanh lie."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchbeast.ops import TanhGaussian

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def numbers(*shape: int, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, dtype=dtype), 0.5 * torch.randn(shape, dtype=dtype) - 0.5


def log_prob_at(u: Tensor, mean: float, log_std: float) -> Tensor:
    """What the class says of tanh(u) [N], through the noise that leads there."""
    mean_, log_std_ = torch.full_like(u, mean), torch.full_like(u, log_std)
    noise = (u - mean_) / log_std_.exp()
    policy = TanhGaussian(mean_.unsqueeze(-1), log_std_.unsqueeze(-1))
    action, log_prob = policy.sample_with_log_prob(noise.unsqueeze(-1))
    torch.testing.assert_close(action[:, 0], u.tanh())
    return log_prob


@pytest.mark.parametrize("mean", [-1.5, 0.0, 0.7])
@pytest.mark.parametrize("log_std", [-2.0, 0.0, 0.6])
def test_the_density_is_that_of_the_samples(mean: float, log_std: float) -> None:
    """Integrated over actions it gives the normal's distribution function, and 1 in all."""
    std = math.exp(log_std)
    u = torch.linspace(max(mean - 7 * std, -15), min(mean + 7 * std, 15), 20_001, dtype=F64)
    action, density = u.tanh(), log_prob_at(u, mean, log_std).exp()
    below = torch.cumulative_trapezoid(density, action)
    normal = torch.special.ndtr((u[1:] - mean) / std)
    torch.testing.assert_close(below, normal, rtol=0, atol=1e-5)
    assert below[-1].item() == pytest.approx(1, abs=1e-5)


def test_dimensions_are_independent() -> None:
    mean, log_std = numbers(4, 5, 3)
    noise = torch.randn(4, 5, 3, dtype=F64)
    action, log_prob = TanhGaussian(mean, log_std).sample_with_log_prob(noise)
    assert (action.shape, log_prob.shape) == ((4, 5, 3), (4, 5))
    parts = [
        TanhGaussian(mean[..., d : d + 1], log_std[..., d : d + 1]).sample_with_log_prob(
            noise[..., d : d + 1]
        )
        for d in range(3)
    ]
    assert torch.equal(action, torch.cat([part for part, _ in parts], -1))
    torch.testing.assert_close(log_prob, sum(part for _, part in parts))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_samples_are_tanh_of_normal_ones(dtype: torch.dtype) -> None:
    mean, log_std = torch.tensor([0.3, -1.0], dtype=dtype), torch.tensor([-1.0, -0.2], dtype=dtype)
    mean.requires_grad_()
    policy = TanhGaussian(mean.expand(20_000, 2), log_std.expand(20_000, 2))
    torch.manual_seed(1)
    action = policy.sample()
    assert not action.requires_grad
    assert action.dtype == dtype
    assert (action.abs() < 1).all()
    u = action.atanh()
    torch.testing.assert_close(u.mean(0), mean.detach(), rtol=0, atol=0.02)
    torch.testing.assert_close(u.std(0), log_std.exp(), rtol=0.02, atol=0)
    # Half of them lie below what evaluation plays.
    assert (action < policy.mode()).double().mean(0).tolist() == pytest.approx([0.5] * 2, abs=0.02)
    torch.manual_seed(1)
    again, _ = policy.sample_with_log_prob()
    assert torch.equal(again, action)


def test_the_mode_is_tanh_of_the_mean() -> None:
    mean, log_std = numbers(5, 2)
    assert torch.equal(TanhGaussian(mean, log_std).mode(), mean.tanh())


def test_the_gradient_is_that_of_finite_differences() -> None:
    mean, log_std = (x.requires_grad_() for x in numbers(6, 3))
    noise = torch.randn(6, 3, dtype=F64)

    def both(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        return TanhGaussian(mean, log_std).sample_with_log_prob(noise)

    assert torch.autograd.gradcheck(both, (mean, log_std))
    for output in both(mean, log_std):
        for grad in torch.autograd.grad(output.sum(), (mean, log_std), retain_graph=True):
            assert (grad != 0).all()


@pytest.mark.parametrize("u", [-18.0, -9.5, -6.0, 6.0, 9.5, 18.0])
def test_float32_is_right_where_the_common_form_is_not(u: float) -> None:
    """log(1 - a^2 + 1e-6) stops at -13.8 however far out u is; the true slope goes on falling."""
    log_std = -2.0
    normal = -log_std - 0.5 * math.log(2 * math.pi)
    exact = normal + 2 * math.log(math.cosh(u))  # d tanh(u) / du is 1 / cosh(u)^2
    mean = torch.tensor([[u]], requires_grad=True)
    policy = TanhGaussian(mean, torch.tensor([[log_std]]))
    action, log_prob = policy.sample_with_log_prob(torch.zeros(1, 1))
    assert log_prob.item() == pytest.approx(exact, rel=1e-6)
    (slope,) = torch.autograd.grad(log_prob.sum(), mean)
    assert slope.item() == pytest.approx(2 * math.tanh(u), rel=1e-6)
    common = normal - torch.log(1 - action.detach() ** 2 + 1e-6).item()
    assert abs(common - exact) > (3 if abs(u) > 9 else 0.02)


def test_extreme_numbers_stay_finite() -> None:
    mean = torch.tensor([[-1e4, 0.0, 1e4, 30.0]], requires_grad=True)
    log_std = torch.tensor([[2.0, -20.0, -20.0, 2.0]], requires_grad=True)
    action, log_prob = TanhGaussian(mean, log_std).sample_with_log_prob(torch.ones(1, 4))
    assert (action.abs() <= 1).all()
    (action.sum() + log_prob.sum()).backward()
    assert log_prob.isfinite().all()
    assert mean.grad is not None
    assert log_std.grad is not None
    assert torch.cat([mean.grad, log_std.grad]).isfinite().all()

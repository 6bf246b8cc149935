"""Distributions of returns against double loops over atoms and over quantiles."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchbeast import ops

F64 = torch.float64
B = 7


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def distributions(count: int, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    atoms = torch.linspace(-3.7, 9.1, count, dtype=dtype)
    return atoms, torch.softmax(2 * torch.randn(B, count, dtype=dtype), -1)


def projected(atoms: Tensor, p: Tensor, reward: float, discount: float) -> list[float]:
    """Algorithm 1 of C51: each atom's mass goes down and up, all of it where it hits."""
    low, high, last = atoms[0].item(), atoms[-1].item(), len(atoms) - 1
    out = [0.0] * len(atoms)
    for mass, atom in zip(p.tolist(), atoms.tolist(), strict=True):
        place = (min(max(reward + discount * atom, low), high) - low) / ((high - low) / last)
        down = min(math.floor(place), last)
        up = min(down + 1, last)
        out[down] += mass * (1 - (place - down))
        out[up] += mass * (place - down)
    return out


@pytest.mark.parametrize("count", [2, 3, 51])
@pytest.mark.parametrize("scale", [0.1, 4.0, 100.0])
def test_projection_shares_between_neighbours(count: int, scale: float) -> None:
    atoms, p = distributions(count)
    reward, discount = scale * torch.randn(B, dtype=F64), torch.rand(B, dtype=F64)
    discount[0] = 0
    out = ops.categorical_projection(atoms, p, reward, discount)
    for b in range(B):
        expected = projected(atoms, p[b], reward[b].item(), discount[b].item())
        assert out[b].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("count", [2, 10, 51, 101])
def test_mass_is_kept_and_nothing_is_negative(dtype: torch.dtype, count: int) -> None:
    atoms, p = distributions(count, dtype)
    for reward in (-1e9, -3.7, 0.0, 0.1, 9.1, 1e9):
        for discount in (0.0, 0.97, 1.0):
            r, d = (torch.full((B,), x, dtype=dtype) for x in (reward, discount))
            out = ops.categorical_projection(atoms, p, r, d)
            assert out.dtype == dtype
            assert (out >= 0).all()
            torch.testing.assert_close(out.sum(-1), p.sum(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_projection_keeps_the_mean_inside_and_the_ends_outside(dtype: torch.dtype) -> None:
    atoms, p = distributions(51, dtype)
    reward, discount = torch.rand(B, dtype=dtype), torch.full((B,), 0.8, dtype=dtype)
    out = ops.categorical_projection(atoms, p, reward, discount)
    torch.testing.assert_close(out @ atoms, reward + discount * (p @ atoms))
    for reward, end in ((-1e6, 0), (1e6, -1)):
        out = ops.categorical_projection(atoms, p, torch.full_like(discount, reward), discount)
        torch.testing.assert_close(out[:, end], p.sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("count", [5, 43, 51])
def test_shift_by_whole_atoms_moves_the_mass(dtype: torch.dtype, count: int) -> None:
    atoms, p = distributions(count, dtype)
    step = (atoms[-1] - atoms[0]) / (count - 1)
    for shift in (-2, -1, 0, 1, 2):
        reward = (shift * step).expand(B)
        out = ops.categorical_projection(atoms, p, reward, torch.ones_like(reward))
        expected = torch.zeros_like(p)
        to = (torch.arange(count) + shift).clamp(0, count - 1)
        expected.index_add_(1, to, p)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_projection_has_no_gradient_and_any_leading_dimensions() -> None:
    atoms, p = distributions(11)
    reward, discount = torch.randn(B, dtype=F64), torch.rand(B, dtype=F64)
    flat = ops.categorical_projection(atoms, p.requires_grad_(), reward, discount)
    assert not flat.requires_grad
    assert torch.equal(ops.categorical_projection(atoms, p[0], reward[0], discount[0]), flat[0])
    stacked = (x.expand(2, 3, *x.shape) for x in (p, reward, discount))
    assert torch.equal(ops.categorical_projection(atoms, *stacked), flat.expand(2, 3, B, 11))


def test_projection_names_wrong_shapes() -> None:
    atoms, p = distributions(5)
    one = torch.ones(B, dtype=F64)
    with pytest.raises(ValueError, match=r"two or more .* got \[4\] and \[7, 5\]"):
        ops.categorical_projection(atoms[:4], p, one, one)
    with pytest.raises(ValueError, match=r"two or more .* got \[1\] and \[7, 1\]"):
        ops.categorical_projection(atoms[:1], p[:, :1], one, one)
    with pytest.raises(ValueError, match=r"shape \[7\] .* got \[7, 1\] and \[7\]"):
        ops.categorical_projection(atoms, p, one.unsqueeze(-1), one)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_cross_entropy_and_its_gradient(scale: float) -> None:
    logits = (scale * torch.randn(B, 5, dtype=F64)).requires_grad_()
    target = torch.softmax(torch.randn(B, 5, dtype=F64), -1).requires_grad_()
    loss = ops.categorical_loss(logits, target)
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, (logits.softmax(-1) - target).detach())
    assert target.grad is None
    for b in range(B):
        top = logits[b].max().item()
        log_sum = top + math.log(sum(math.exp(x - top) for x in logits[b].tolist()))
        pairs = zip(target[b].tolist(), logits[b].tolist(), strict=True)
        assert loss[b].item() == pytest.approx(sum(m * (log_sum - x) for m, x in pairs))
    with pytest.raises(ValueError, match=r"one shape, got \[7, 5\] and \[5\]"):
        ops.categorical_loss(logits, target[0])


def test_expected_value_is_the_mean() -> None:
    atoms, p = distributions(9)
    value = ops.expected_value((p.log() + 3.0).expand(2, B, 9), atoms)
    expected = [sum(x * z for x, z in zip(row.tolist(), atoms.tolist(), strict=True)) for row in p]
    torch.testing.assert_close(value, torch.tensor([expected, expected], dtype=F64))


@pytest.mark.parametrize("kappa", [0.0, 0.4, 1.0, 3.0])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 4), (5, 8)])
def test_quantile_loss_pair_by_pair(kappa: float, n: int, m: int) -> None:
    quantiles, target = (2 * torch.randn(B, k, dtype=F64) for k in (n, m))
    taus = torch.rand(B, n, dtype=F64)
    target.requires_grad_()
    loss = ops.quantile_huber_loss(quantiles.requires_grad_(), taus, target, kappa)
    divided = ops.quantile_huber_loss(quantiles, taus, target, kappa, over_kappa=True)
    for b in range(B):
        total = 0.0
        for theta, tau in zip(quantiles[b].tolist(), taus[b].tolist(), strict=True):
            for z in target[b].tolist():
                u = z - theta
                smooth = u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
                total += abs(tau - (u < 0)) * (smooth if kappa else abs(u)) / m
        assert loss[b].item() == pytest.approx(total)
        assert divided[b].item() == pytest.approx(total / (kappa or 1))
    loss.sum().backward()
    assert target.grad is None
    assert (quantiles.grad != 0).any()


def test_taus_are_shared_or_of_each_row() -> None:
    quantiles, target = torch.randn(2, B, 5), torch.randn(2, B, 8)
    taus = ops.quantile_midpoints(5)
    own = ops.quantile_huber_loss(quantiles, taus.expand(2, B, 5), target)
    assert torch.equal(ops.quantile_huber_loss(quantiles, taus, target), own)
    assert not torch.equal(ops.quantile_huber_loss(quantiles, taus.flip(0), target), own)


def test_quantile_loss_names_wrong_shapes() -> None:
    for taus, target in (((4,), (B, 8)), ((5,), (1, 8)), ((B, 1), (B, 8))):
        with pytest.raises(ValueError, match=r"expected quantiles and taus .* got \[7, 5\]"):
            ops.quantile_huber_loss(torch.ones(B, 5), torch.ones(taus), torch.ones(target))


def test_midpoints() -> None:
    assert ops.quantile_midpoints(4).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert ops.quantile_midpoints(4).dtype == torch.float32
    fine = ops.quantile_midpoints(200, dtype=F64)
    assert fine.tolist() == pytest.approx([(2 * i + 1) / 400 for i in range(200)], rel=1e-15)


def test_descending_the_loss_finds_the_quantiles() -> None:
    # Returns 0 and 10, as likely as each other three to one: a mean would be 2.5.
    target = torch.tensor([[0.0] * 3 + [10.0]], dtype=F64)
    taus = ops.quantile_midpoints(8, dtype=F64)
    quantiles = torch.full((1, 8), 5.0, dtype=F64, requires_grad=True)
    for step in range(400):
        loss = ops.quantile_huber_loss(quantiles, taus, target, 0.01, over_kappa=True).sum()
        (grad,) = torch.autograd.grad(loss, quantiles)
        quantiles.data -= grad * 2 / (1 + step / 20)
    expected = [0.0 if tau < 0.75 else 10.0 for tau in taus.tolist()]
    assert quantiles[0].tolist() == pytest.approx(expected, abs=0.2)


def test_no_value_is_read_back_from_the_device() -> None:
    x = torch.ones(B, 5, device="meta")
    m = ops.categorical_projection(x[0], x, x[:, 0], x[:, 0])
    assert ops.categorical_loss(x, m).is_meta
    assert ops.expected_value(x, x[0]).is_meta
    assert ops.quantile_huber_loss(x, ops.quantile_midpoints(5, "meta"), x).is_meta

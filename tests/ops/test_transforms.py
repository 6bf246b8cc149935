"""Value rescaling: its definition, and digits that must not be lost on the way back."""

from __future__ import annotations

import decimal
import math

import pytest
import torch

from torchbeast import ops

F64 = torch.float64


def samples(dtype: torch.dtype) -> torch.Tensor:
    size = torch.logspace(-9, 7, 97, dtype=F64)
    return torch.cat([-size, torch.zeros(1), size]).to(dtype)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_rescale_is_the_formula(dtype: torch.dtype, eps: float) -> None:
    decimal.getcontext().prec = 50
    x = samples(dtype)
    for value, out in zip(x.tolist(), ops.rescale(x, eps).tolist(), strict=True):
        exact = (
            (abs(decimal.Decimal(value)) + 1).sqrt()
            - 1
            + decimal.Decimal(eps) * abs(decimal.Decimal(value))
        )
        precision = 4 * torch.finfo(dtype).eps
        assert out == pytest.approx(math.copysign(float(exact), value), rel=precision)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_there_and_back(dtype: torch.dtype, eps: float) -> None:
    x = samples(dtype)
    precision = 16 * torch.finfo(dtype).eps
    for there, back in ((ops.rescale, ops.unrescale), (ops.unrescale, ops.rescale)):
        torch.testing.assert_close(back(there(x, eps), eps), x, rtol=precision, atol=0)
        assert there(x, eps).dtype == dtype


def test_the_usual_inverse_would_lose_the_digits() -> None:
    # The test above has power: the inverse as papers print it fails it.
    x, eps = samples(torch.float32), 1e-3
    y = ops.rescale(x, eps)
    root = (1 + 4 * eps * (y.abs() + 1 + eps)).sqrt()
    printed = y.sign() * (((root - 1) / (2 * eps)) ** 2 - 1)
    torch.testing.assert_close(ops.unrescale(y.double(), eps), x.double(), rtol=1e-6, atol=0)
    assert ((printed - x).abs() > 0.1 * x.abs()).any()


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_odd_increasing_and_differentiable_at_zero(eps: float) -> None:
    x = samples(F64).requires_grad_()
    middle = len(x) // 2
    assert x[middle] == 0
    for function, slope_at_zero in ((ops.rescale, 0.5 + eps), (ops.unrescale, 1 / (0.5 + eps))):
        y = function(x, eps)
        assert torch.equal(function(-x, eps), -y)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert (slope > 0).all()
        assert slope[middle].item() == pytest.approx(slope_at_zero)
        torch.testing.assert_close(slope[middle + 1], slope[middle])

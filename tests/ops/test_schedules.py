"""Schedules count environment steps and stay at their ends."""

from __future__ import annotations

import pytest

from torchbeast import ops


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(0, 0.7), (25, 0.55), (50, 0.4), (100, 0.1), (1000, 0.1), (-5, 0.7)],
)
def test_linear(steps: int, expected: float) -> None:
    assert ops.linear(steps, 100, 0.7, 0.1) == pytest.approx(expected, abs=1e-15)


def test_linear_meets_its_ends_exactly() -> None:
    assert ops.linear(0, 3, 0.1, 0.3) == 0.1
    assert ops.linear(3, 3, 0.1, 0.3) == 0.3
    assert ops.linear(10**9, 3, 6e-4) == 0.0


def test_linear_refuses_no_steps() -> None:
    with pytest.raises(ValueError, match="expected total_steps above 0, got 0"):
        ops.linear(0, 0, 1.0)


def test_constant() -> None:
    assert {ops.constant(steps, 100, 0.3) for steps in (0, 50, 1000)} == {0.3}

"""Exploration: who explores how much, and that every allowed action gets its share."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from torchbeast import ops

A = 6
ALLOWED = torch.tensor([True, False, True, True, False, True])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_ladder_runs_from_base_to_its_power() -> None:
    epsilon = ops.epsilon_ladder(torch.arange(9, dtype=torch.float64) / 8)
    expected = [0.4 ** (1 + 7 * i / 8) for i in range(9)]
    assert epsilon.tolist() == pytest.approx(expected)
    assert epsilon[0] == 0.4
    ratio = epsilon[1:] / epsilon[:-1]
    torch.testing.assert_close(ratio, ratio[:1].expand(8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("allowed", [None, ALLOWED])
@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_every_allowed_action_gets_its_share(
    dtype: torch.dtype, allowed: torch.Tensor | None, epsilon: float
) -> None:
    draws = 60_000
    q = torch.tensor([0.0, 9.0, 3.0, -1.0, 8.0, 2.0], dtype=dtype).expand(20, draws // 20, A)
    mask = None if allowed is None else allowed.expand_as(q)
    action = ops.epsilon_greedy(q, epsilon, mask)
    assert action.shape == (20, draws // 20)
    assert action.dtype == torch.int64
    may = torch.ones(A) if allowed is None else allowed.float()
    share = epsilon * may / may.sum()
    share[1 if allowed is None else 2] += 1 - epsilon
    counts = torch.bincount(action.flatten(), minlength=A)
    assert (counts[share == 0] == 0).all()
    expected = draws * share[share > 0]
    # At most 5 degrees of freedom: one seed in 7000 is above.
    assert ((counts[share > 0] - expected) ** 2 / expected).sum() < 25


@pytest.mark.parametrize("lead", [(), (8,), (5, 8)])
def test_epsilon_0_is_greedy_and_each_place_has_its_own(lead: tuple[int, ...]) -> None:
    q = torch.randn(*lead, A)
    allowed = torch.rand(*lead, A) < 0.7
    assert torch.equal(ops.epsilon_greedy(q, 0.0), ops.greedy(q))
    assert torch.equal(ops.epsilon_greedy(q, torch.zeros(lead), allowed), ops.greedy(q, allowed))
    if lead:
        epsilon = torch.tensor([0.0, 1.0] * 4)
        tries = torch.stack([ops.epsilon_greedy(q, epsilon) for _ in range(60)])
        differs = (tries != ops.greedy(q)).any(0)
        assert torch.equal(differs, (epsilon > 0).expand(lead))


def test_the_smallest_number_drawn_is_no_reason_to_explore(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    assert ops.epsilon_greedy(torch.arange(3.0), 0.0) == 2


def test_draws_the_same_count_whatever_the_values() -> None:
    after = set()
    for epsilon, allowed, scale in itertools.product((0.0, 0.5, 1.0), (None, ALLOWED), (0, 1)):
        generator = torch.Generator().manual_seed(3)
        q = scale * torch.randn(4, A)
        mask = None if allowed is None else allowed.expand_as(q)
        ops.epsilon_greedy(q, epsilon, mask, generator)
        after.add(torch.rand((), generator=generator).item())
    assert len(after) == 1


def test_only_the_given_generator_is_used() -> None:
    q, state = torch.zeros(100, A), torch.get_rng_state()
    first, again, other = (
        ops.epsilon_greedy(q, 1.0, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_row_that_forbids_everything_still_has_an_action() -> None:
    nothing = torch.zeros(50, A, dtype=torch.bool)
    assert (ops.epsilon_greedy(torch.randn(50, A), 0.5, nothing) == 0).all()


def test_no_value_is_read_back_from_the_device() -> None:
    q = torch.ones(3, A, device="meta")
    epsilon = ops.epsilon_ladder(torch.ones(3, device="meta"))
    assert ops.epsilon_greedy(q, epsilon, q > 0).is_meta

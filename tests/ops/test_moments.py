"""Running moments and discounted sums: whatever the shards, the numbers of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchbeast import ops

F64 = torch.float64


def samples(n: int, offset: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(n)
    return offset + torch.randn(n, 3, generator=g, dtype=F64) * torch.tensor([0.1, 1.0, 30.0])


def moments_of(x: Tensor) -> ops.Moments:
    return ops.Moments(torch.tensor(float(len(x)), dtype=F64), x.mean(0), x.var(0, correction=0))


def update(moments: ops.Moments, *shards: Tensor) -> ops.Moments:
    sums = [ops.batch_sums(x, moments.mean) for x in shards]
    return ops.merge(moments, torch.stack(sums).sum(0))


def assert_moments(actual: ops.Moments, expected: ops.Moments, rtol: float = 1e-12) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=0.0)


@pytest.mark.parametrize("learners", [1, 2, 5])
@pytest.mark.parametrize("batches", [1, 4])
def test_shards_equal_the_whole(learners: int, batches: int) -> None:
    x = samples(103)
    moments = ops.initial_moments(3)
    for batch in x.tensor_split(batches):
        moments = update(moments, *batch.tensor_split(learners))
    assert_moments(moments, moments_of(x))


def test_a_learner_without_samples_does_not_matter() -> None:
    x = samples(20)
    moments = update(ops.initial_moments(3), x[:9])
    assert_moments(update(moments, x[9:], x[:0]), moments_of(x))


@pytest.mark.parametrize("start", [0, 7])
def test_no_samples_leave_the_moments_as_they_are(start: int) -> None:
    moments = ops.initial_moments(3)
    if start:
        moments = update(moments, samples(start))
    nothing = ops.batch_sums(samples(4), moments.mean, torch.zeros(4))
    after = ops.merge(moments, nothing)
    assert all(map(torch.equal, after, moments))


def test_only_valid_samples_count() -> None:
    x = samples(30)
    valid = torch.arange(30) % 3 != 0
    moments = update(ops.initial_moments(3), samples(5))
    poisoned = x.masked_fill(~valid.unsqueeze(1), torch.nan)
    for mask in (valid, valid.float()):
        sums = ops.batch_sums(poisoned, moments.mean, mask)
        assert_moments(ops.merge(moments, sums), update(moments, x[valid]))


@pytest.mark.parametrize("offset", [1e6, -1e9])
def test_stable_far_from_zero(offset: float) -> None:
    # The shift does it: sums of plain squares lose the whole variance at 1e9.
    x = samples(400, offset)
    moments = moments_of(x[:50])
    for batch in x[50:].split(50):
        moments = update(moments, batch)
    assert_moments(moments, moments_of(x), rtol=1e-5)
    # Samples of 0 say where the data lies without saying anything about them.
    guess = ops.initial_moments(3)._replace(mean=x[0])
    assert_moments(update(guess, x), moments_of(x), rtol=1e-5)


def test_a_constant_has_no_variance() -> None:
    constants = torch.linspace(-5, 5, 99, dtype=F64)
    moments = ops.initial_moments(99)
    for _ in range(5):
        moments = update(moments, constants.expand(7, 99))
        assert (moments.var >= 0).all()
    torch.testing.assert_close(moments.mean, constants)
    torch.testing.assert_close(moments.var, torch.zeros_like(constants), rtol=0, atol=1e-14)


def test_initial_moments_weigh_as_many_samples() -> None:
    x = samples(6)
    prior = torch.tensor([[-1.0], [1.0]], dtype=F64).expand(2, 3)  # mean 0, variance 1
    moments = update(ops.initial_moments(3, samples=2), x)
    assert_moments(moments, moments_of(torch.cat((prior, x))))


def test_moments_are_double_whatever_comes() -> None:
    x = samples(50, offset=1000.0).float().requires_grad_()
    sums = ops.batch_sums(x, torch.zeros(3, dtype=F64))
    assert sums.dtype == F64
    assert not sums.requires_grad
    assert all(m.dtype == F64 for m in ops.merge(ops.initial_moments(3), sums))
    assert_moments(update(ops.initial_moments(3), x), moments_of(x.detach().double()), rtol=1e-6)


@pytest.mark.parametrize("shapes", [((4,), (4,), (4,)), ((4, 3), (2,), (4,)), ((4, 3), (3,), (3,))])
def test_shapes_of_samples_must_agree(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"samples \[N, F\], shift \[F\] and valid \[N\], got \[4"):
        ops.batch_sums(*map(torch.ones, shapes))


@pytest.mark.parametrize("length", [1, 2, 5, 17])
def test_discounted_sums_follow_the_recursion_over_any_rollouts(length: int) -> None:
    g = torch.Generator().manual_seed(0)
    r = torch.randn(17, 3, generator=g, dtype=F64)
    first = torch.rand(17, 3, generator=g) < 0.3
    assert first[1:].any()
    start = torch.randn(3, generator=g, dtype=F64)
    total, expected = start.tolist(), torch.zeros_like(r)
    for t in range(17):
        for b in range(3):
            total[b] = r[t, b].item() + (0.0 if first[t, b] else 0.9 * total[b])
            expected[t, b] = total[b]
    pieces = []
    for rewards, begins in zip(r.split(length), first.split(length), strict=True):
        pieces.append(ops.discounted_sums(rewards, begins, 0.9, start))
        start = pieces[-1][-1]
    torch.testing.assert_close(torch.cat(pieces), expected)


def test_discounted_sums_forget_the_episode_before() -> None:
    r, first = torch.randn(8, 2), torch.zeros(8, 2, dtype=torch.bool)
    first[4] = True
    whole = ops.discounted_sums(r, first, 0.99, torch.ones(2))
    other = ops.discounted_sums(r + 1000 * (torch.arange(8) < 4).unsqueeze(1), first, 0.99, r[0])
    assert torch.equal(whole[4:], other[4:])  # bitwise
    assert not torch.equal(whole[:4], other[:4])


def test_shapes_of_discounted_sums_must_agree() -> None:
    r, first = torch.ones(4, 2), torch.zeros(4, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"got r \[4, 2\], first \[3, 2\]"):
        ops.discounted_sums(r, first[:3], 0.9, torch.zeros(2))
    with pytest.raises(ValueError, match=r"start \[2\], got \[1, 2\]"):
        ops.discounted_sums(r, first, 0.9, torch.zeros(1, 2))

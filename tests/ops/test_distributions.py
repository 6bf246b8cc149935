"""The distributions against torch's, and their samples against their probabilities."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import distributions as td

from torchbeast import ops
from torchbeast.ops.distributions import Bernoulli, Joint, Shaped

NVEC = (5, 2, 3)


def chi_square(counts: torch.Tensor, probs: torch.Tensor) -> float:
    expected = counts.sum() * probs
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pair(kind: str, lead: tuple[int, ...]) -> tuple[Any, Any]:
    """Ours and torch's distribution from the same random parameters."""
    if kind == "categorical":
        logits = 2 * torch.randn(*lead, 6)
        return ops.Categorical(logits), td.Categorical(logits=logits)
    mean, log_std = torch.randn(*lead, 4), torch.randn(*lead, 4)
    return ops.DiagonalGaussian(mean, log_std), td.Independent(td.Normal(mean, log_std.exp()), 1)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@pytest.mark.parametrize("lead", [(), (3,), (1, 32), (2, 3, 4)])
def test_equals_torch(kind: str, lead: tuple[int, ...]) -> None:
    (ours, theirs), (ours2, theirs2) = pair(kind, lead), pair(kind, lead)
    action = ours.sample()
    assert action.shape == theirs.sample().shape
    assert action.dtype == theirs.sample().dtype
    assert ours.mode().shape == action.shape
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(ours2), td.kl_divergence(theirs, theirs2))
    assert (ours.log_prob(ours.mode()) >= ours.log_prob(action)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_categorical_samples_follow_the_probabilities(dtype: torch.dtype) -> None:
    # Around 20 neighbouring bfloat16 are 1/8 apart: noise in that precision would tie.
    logits = 20 + torch.tensor([1.0, -1.0, 0.5, 0.0, -3.0, 1.0]).to(dtype)
    actions = ops.Categorical(logits.expand(20, 2500, 6)).sample()
    counts = torch.bincount(actions.flatten(), minlength=6)
    probs = torch.softmax(logits.double(), -1)
    assert chi_square(counts, probs) < 25  # 5 degrees of freedom: one seed in 7000 is above
    assert chi_square(counts, torch.full((6,), 1 / 6)) > 1000


def test_samples_come_from_the_global_generator_and_differ_within_a_batch() -> None:
    dist = ops.Categorical(torch.zeros(64, 1000))
    torch.manual_seed(1)
    one = dist.sample()
    two = dist.sample()
    torch.manual_seed(1)
    assert torch.equal(one, dist.sample())
    assert not torch.equal(one, two)
    assert len(one.unique()) > 40


def test_masked_actions_never_happen() -> None:
    logits = torch.tensor([50.0, 0.0, 1.0, -1.0]).repeat(20000, 1).requires_grad_()
    mask = torch.tensor([False, True, True, False])
    dist = ops.Categorical(ops.mask_logits(logits, mask))
    allowed = td.Categorical(logits=torch.tensor([0.0, 1.0]))
    counts = torch.bincount(dist.sample(), minlength=4)
    assert counts[0] == counts[3] == 0
    assert dist.mode()[0] == 2
    assert chi_square(counts[1:3], allowed.probs) < 15
    torch.testing.assert_close(dist.entropy()[0], allowed.entropy())
    torch.testing.assert_close(dist.kl(dist), torch.zeros(20000))
    (dist.entropy().sum() + dist.log_prob(torch.ones(20000, dtype=torch.int64)).sum()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, [0, 3]] == 0).all()
    assert (logits.grad[:, [1, 2]] != 0).all()


def test_a_mask_that_forbids_everything_is_uniform() -> None:
    dist = ops.Categorical(ops.mask_logits(torch.randn(2, 4), torch.zeros(2, 4)))
    torch.testing.assert_close(dist.log_probs.exp(), torch.full((2, 4), 0.25))


def test_infinite_logits_keep_entropy_kl_and_gradients_finite() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    dist = ops.Categorical(logits)
    (dist.entropy() + dist.kl(ops.Categorical(torch.zeros(1, 3)))).sum().backward()
    torch.testing.assert_close(dist.entropy(), ops.Categorical(logits[:, :2]).entropy())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="mask of 6 actions"):
        ops.mask_logits(torch.zeros(2, 6), torch.ones(2, 5))


@pytest.mark.parametrize("nvec", [NVEC, (4, 4), (3,)])
@pytest.mark.parametrize("lead", [(), (1, 32), (3, 2)])
def test_multi_categorical_is_a_product(nvec: tuple[int, ...], lead: tuple[int, ...]) -> None:
    logits, logits2 = torch.randn(2, *lead, sum(nvec))
    dist, other = ops.MultiCategorical(logits, nvec), ops.MultiCategorical(logits2, nvec)
    parts = [td.Categorical(logits=x) for x in logits.split(nvec, -1)]
    others = [td.Categorical(logits=x) for x in logits2.split(nvec, -1)]
    action = dist.sample()
    assert action.shape == (*lead, len(nvec))
    assert action.dtype == torch.int64
    log_prob = sum(part.log_prob(action[..., i]) for i, part in enumerate(parts))
    torch.testing.assert_close(dist.log_prob(action), log_prob)
    torch.testing.assert_close(dist.entropy(), sum(part.entropy() for part in parts))
    kl = sum(td.kl_divergence(p, q) for p, q in zip(parts, others, strict=True))
    torch.testing.assert_close(dist.kl(other), kl)
    mode = torch.stack([part.logits.argmax(-1) for part in parts], -1)
    assert torch.equal(dist.mode(), mode)


def test_multi_categorical_samples_follow_the_probabilities() -> None:
    logits = torch.randn(sum(NVEC))
    actions = ops.MultiCategorical(logits.expand(20000, -1), NVEC).sample()
    for i, part in enumerate(logits.split(NVEC)):
        counts = torch.bincount(actions[:, i])
        assert len(counts) == NVEC[i], "an action of the padding was drawn"
        assert chi_square(counts, torch.softmax(part, -1)) < 25


def test_multi_categorical_learns_after_acting_in_inference_mode() -> None:
    # Whatever is kept between calls must not become an inference tensor (autograd refuses them).
    nvec = (7, 2, 4)  # used nowhere else: the first call of this shape is the actor's
    with torch.inference_mode():
        action = ops.MultiCategorical(torch.randn(1, 3, 13), nvec).sample()
    logits = torch.randn(1, 3, 13, requires_grad=True)
    ops.MultiCategorical(logits, nvec).log_prob(action.clone()).sum().backward()
    assert logits.grad is not None
    assert (logits.grad != 0).any()


def test_multi_categorical_refuses_other_logits() -> None:
    with pytest.raises(ValueError, match=r"expected 10 logits .* got \[2, 9\]"):
        ops.MultiCategorical(torch.zeros(2, 9), NVEC)


def test_an_int32_action_as_a_slot_keeps_it() -> None:
    dist = ops.MultiCategorical(torch.randn(3, 10), NVEC)
    action = dist.sample()
    assert torch.equal(dist.log_prob(action.int()), dist.log_prob(action))


def test_a_mask_that_forbids_everything_keeps_padding_out() -> None:
    logits = ops.mask_logits(torch.randn(10), torch.zeros(10)).requires_grad_()
    dist = ops.MultiCategorical(logits, NVEC)
    entropy = dist.entropy()
    torch.testing.assert_close(entropy.exp(), torch.tensor(30.0))  # 5 * 2 * 3, uniform
    assert (dist.sample() < torch.tensor(NVEC)).all()
    (entropy + dist.kl(dist) + dist.log_prob(torch.zeros(3))).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("lead", [(), (1, 8), (2, 3)])
def test_bernoulli_equals_torch(lead: tuple[int, ...]) -> None:
    logits, logits2 = 3 * torch.randn(2, *lead, 4)
    dist, other = Bernoulli(logits), Bernoulli(logits2)
    theirs, theirs2 = (td.Independent(td.Bernoulli(logits=x), 1) for x in (logits, logits2))
    action = dist.sample()
    assert action.shape == logits.shape
    assert action.dtype == dist.mode().dtype == torch.int8
    torch.testing.assert_close(dist.log_prob(action), theirs.log_prob(action.float()))
    torch.testing.assert_close(dist.entropy(), theirs.entropy())
    torch.testing.assert_close(dist.kl(other), td.kl_divergence(theirs, theirs2))
    assert (dist.log_prob(dist.mode()) >= dist.log_prob(action)).all()


def test_bernoulli_of_certain_switches_is_finite() -> None:
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    dist = Bernoulli(logits)
    assert dist.sample().tolist() == dist.mode().tolist() == [0, 1]
    (dist.entropy() + dist.log_prob(torch.tensor([1, 0])) + dist.kl(dist)).backward()
    assert dist.entropy() < 1e-6
    assert dist.log_prob(torch.tensor([1, 0])) == -400
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_bernoulli_samples_follow_the_probabilities() -> None:
    logits = torch.tensor([-2.0, 0.0, 1.5])
    rate = Bernoulli(logits.expand(40000, 3)).sample().float().mean(0)
    torch.testing.assert_close(rate, logits.sigmoid(), atol=0.01, rtol=0)


def test_shaped_is_the_same_distribution_over_arrays() -> None:
    logits, logits2 = torch.randn(2, 4, 2, 6)
    flat, other = Bernoulli(logits), Bernoulli(logits2)
    dist = Shaped(flat, (2, 3), torch.int64)
    action = dist.sample()
    assert action.shape == dist.mode().shape == (4, 2, 2, 3)
    assert action.dtype == torch.int64
    assert torch.equal(dist.log_prob(action), flat.log_prob(action.flatten(2)))
    assert torch.equal(dist.entropy(), flat.entropy())
    assert torch.equal(dist.kl(Shaped(other, (2, 3), torch.int64)), flat.kl(other))


def test_a_joint_is_the_product_of_its_parts_by_brute_force() -> None:
    def make() -> Joint:
        inner = Joint((ops.Categorical(torch.randn(3)), Bernoulli(torch.randn(2))))
        return Joint({"b": ops.MultiCategorical(torch.randn(5), (2, 3)), "a": inner})

    dist, other = make(), make()
    every = [
        {"b": torch.tensor([i, j]), "a": (torch.tensor(k), torch.tensor([x, y]))}
        for i, j, k, x, y in itertools.product(range(2), range(3), range(3), range(2), range(2))
    ]
    log_p = torch.stack([dist.log_prob(action) for action in every])
    log_q = torch.stack([other.log_prob(action) for action in every])
    p = log_p.exp()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0))
    torch.testing.assert_close(dist.entropy(), -(p * log_p).sum())
    torch.testing.assert_close(dist.kl(other), (p * (log_p - log_q)).sum())
    torch.testing.assert_close(dist.log_prob(dist.mode()), log_p.max())
    action = dist.sample()
    assert list(action) == ["b", "a"]
    assert isinstance(action["a"], tuple)


def test_gaussian_samples_have_the_moments() -> None:
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    actions = ops.DiagonalGaussian(mean.expand(50000, 2), log_std).sample()
    torch.testing.assert_close(actions.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(actions.std(0), log_std.exp(), atol=0, rtol=0.02)


def test_gaussian_with_one_log_std_for_all_rows() -> None:
    dist = ops.DiagonalGaussian(torch.zeros(5, 3, 2), torch.zeros(2))
    assert dist.entropy().shape == dist.log_prob(dist.sample()).shape == (5, 3)


def test_only_rsample_carries_a_gradient() -> None:
    mean, log_std = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    dist = ops.DiagonalGaussian(mean, log_std)
    assert not dist.sample().requires_grad
    action = dist.rsample()
    action.sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(3))
    torch.testing.assert_close(log_std.grad, action.detach())  # d(mean + std eps) = std eps


def test_gradients_by_finite_differences() -> None:
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    other = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    action = torch.tensor([3, 1])

    def categorical(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        dist = ops.Categorical(x)
        return dist.log_prob(action), dist.entropy(), dist.kl(ops.Categorical(y))

    def gaussian(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        dist = ops.DiagonalGaussian(x, y)
        return dist.log_prob(x * 2), dist.entropy(), dist.kl(ops.DiagonalGaussian(y, x))

    assert torch.autograd.gradcheck(categorical, (logits, other))
    assert torch.autograd.gradcheck(gaussian, (logits, other))

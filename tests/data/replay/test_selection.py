"""Selection: the probabilities are those of the definition, and closed means closed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ops.golden import cases

from torchbeast.data.replay import Prioritized, Uniform
from torchbeast.data.replay.sum_tree import SumTree

DRAWS = 100_000


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        found = list(cases("per", metafunc.config.getoption("--golden")))
        metafunc.parametrize("case", found, ids=[case.name for case in found])


def given(uniforms):
    """Returns a generator whose random numbers are these."""
    return SimpleNamespace(random=lambda n: np.array(uniforms[:n]))


def test_golden_prioritised_replay(case):
    priorities = np.array(case.inputs["priorities"])
    uniforms, alpha = case.inputs["uniforms"], case.params["alpha"]
    count, expected = len(priorities), case.expected
    items = priorities.nonzero()[0]  # there a priority of 0 says closed
    for stratified, name in ((False, "indices_uniform"), (True, "indices_stratified")):
        selection = Prioritized(count, alpha, 0.0, stratified)
        selection.open(items, priorities[items])
        drawn, oversampling = selection.draw(len(uniforms), given(uniforms))
        np.testing.assert_array_equal(drawn, expected[name])
        probabilities = np.array(expected["probabilities"])
        np.testing.assert_allclose(oversampling, len(items) * probabilities[drawn], rtol=1e-9)
    weight = selection.tree.get(np.arange(count))
    np.testing.assert_allclose(weight / selection.tree.total, probabilities, rtol=1e-9)
    # Its new priorities are those of the stratified draws, as the file's note has them.
    selection.epsilon = case.params["eps"]
    selection.update(drawn, np.abs(case.inputs["td_errors"]))
    new = np.array(expected["new_priorities"])[items] ** alpha
    np.testing.assert_allclose(selection.tree.get(items), new, rtol=1e-8)
    np.testing.assert_allclose(selection.tree.total, expected["total_after"], rtol=1e-9)


def chi_square(counts, probabilities):
    """Returns how many standard deviations the statistic is above its mean."""
    expected = probabilities * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    return (statistic - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("stratified", [False, True])
def test_priorities_are_drawn_as_often_as_they_say(stratified):
    rng = np.random.default_rng(0)
    size = 70_000  # several levels of the tree, most of it closed
    items = rng.permutation(size)[:200]
    selection = Prioritized(size, 0.6, stratified=stratified)
    selection.open(np.arange(size))
    selection.close(np.setdiff1d(np.arange(size), items))
    priority = rng.exponential(size=200)
    selection.update(items, priority)
    probabilities = (priority + 1e-6) ** 0.6
    probabilities /= probabilities.sum()
    counts = np.zeros(size, int)
    value = rng.normal(size=size)
    weighted, total = 0.0, 0.0
    for _ in range(DRAWS // 250):
        drawn, oversampling = selection.draw(250, rng)
        np.add.at(counts, drawn, 1)
        weighted += (value[drawn] / oversampling).sum()
        total += (1 / oversampling).sum()
    assert counts.sum() == counts[items].sum() == DRAWS
    assert chi_square(counts[items], probabilities) < 4
    if not stratified:
        assert chi_square(counts[items], probabilities) > -4
    # Weighed by how much too often they came, all count the same.
    assert weighted / total == pytest.approx(value[items].mean(), abs=0.02)
    assert total == pytest.approx(DRAWS, rel=0.02)


def test_uniform_draws_are_uniform_after_any_opening_and_closing():
    rng = np.random.default_rng(1)
    selection, open_now = Uniform(500), set()
    for _ in range(300):
        closed = np.setdiff1d(np.arange(500), list(open_now))
        new = rng.choice(closed, rng.integers(0, min(40, len(closed)) + 1), replace=False)
        selection.open(new)
        open_now |= set(new.tolist())
        old = rng.choice(500, rng.integers(0, 60), replace=False)  # some of them are not open
        selection.close(old)
        open_now -= set(old.tolist())
        assert len(selection) == len(open_now)
        assert set(selection.state()[0]["open"].tolist()) == open_now
    drawn, oversampling = selection.draw(DRAWS, rng)
    counts = np.bincount(drawn, minlength=500)[sorted(open_now)]
    assert counts.sum() == DRAWS
    assert abs(chi_square(counts, np.full(len(counts), 1 / len(counts)))) < 4
    assert (oversampling == 1).all()


def test_new_items_get_the_largest_priority_so_far_and_at_least_one():
    selection = Prioritized(6, 0.5, epsilon=0.0)
    selection.open(np.array([0]))
    selection.update(np.array([0]), np.array([0.25]))
    selection.open(np.array([1]))
    selection.update(np.array([1]), np.array([9.0]))
    selection.update(np.array([1]), np.array([4.0]))
    selection.open(np.array([2]))
    selection.open(np.array([3]), np.array([16.0]))  # given priorities: the same exponent, once
    selection.open(np.array([4]))
    np.testing.assert_allclose(selection.tree.get(np.arange(6)), [0.5, 2, 3, 4, 4, 0])


def test_closed_items_are_never_drawn_whatever_is_said_of_them():
    selection = Prioritized(10, 1.0)
    selection.open(np.arange(10))
    selection.close(np.array([2, 3, 5]))
    selection.update(np.array([3, 4, 4, 5]), np.array([1e9, 7.0, 2.0, 1e9]))
    drawn, _ = selection.draw(5000, np.random.default_rng(0))
    assert set(drawn.tolist()) == {0, 1, 4, 6, 7, 8, 9}
    assert len(selection) == 7
    np.testing.assert_allclose(selection.tree.get(np.array([3, 4, 5])), [0, 2 + 1e-6, 0])
    selection.close(np.array([2, 3]))  # again: nothing
    assert len(selection) == 7


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, -1e-9])
def test_a_priority_that_is_none_is_refused(bad):
    selection = Prioritized(4, 0.6)
    with pytest.raises(ValueError, match=r"finite and at least 0, got .*--learning_rate"):
        selection.open(np.array([0, 1]), np.array([1.0, bad]))
    selection.open(np.arange(4))
    with pytest.raises(ValueError, match="finite and at least 0"):
        selection.update(np.array([0, 1]), np.array([bad, 1.0]))
    np.testing.assert_array_equal(selection.tree.get(np.arange(4)), 1)


def test_an_exponent_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="--priority_exponent"):
        Prioritized(4, -1.0)


@pytest.mark.parametrize("size", [1, 17, 4096, 4097, 70_000])
def test_the_tree_finds_what_a_cumulated_sum_finds(size):
    rng = np.random.default_rng(size)
    tree, weight = SumTree(size), np.zeros(size)
    for _ in range(20):
        index = rng.integers(0, size, 30)
        new = rng.integers(0, 5, 30).astype(float)  # whole numbers: no rounding
        tree.set(index, new)
        weight[index] = new
    tree.set(np.array([0]), 3.0)
    weight[0] = 3
    cumulated = weight.cumsum()
    position = rng.random(1000)
    expected = cumulated.searchsorted(position * cumulated[-1], side="right")
    np.testing.assert_array_equal(tree.find(position), expected)
    assert tree.total == cumulated[-1]


def test_a_leaf_without_weight_is_not_found_at_any_rounding():
    rng = np.random.default_rng(0)
    size = 16 * 4096
    weight = 10.0 ** rng.uniform(-8, 8, size)  # sums of these round
    weight[::16] = 0  # where a search that misses its group would end
    weight[rng.random(size) < 0.3] = 0
    tree = SumTree(size)
    tree.set(np.arange(size), weight)
    ends = weight.reshape(-1, 16).sum(1).cumsum()
    for edge in (ends, np.nextafter(ends, 0), np.nextafter(ends, np.inf)):
        found = tree.find((edge / tree.total).clip(0, np.nextafter(1, 0)))
        assert (weight[found] > 0).all()


def test_an_empty_tree_says_so():
    with pytest.raises(ValueError, match="priority above 0"):
        SumTree(10).find(np.array([0.5]))

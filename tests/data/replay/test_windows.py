"""Windows: the fold over n steps, and settings that cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from data.replay.tape import make_spec
from ops.golden import cases

from torchbeast.data.replay import Pacing, Replay, Ring, Sequences, Transitions, Uniform
from torchbeast.data.replay.windows import fold


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        found = list(cases("nstep_returns", metafunc.config.getoption("--golden")))
        metafunc.parametrize("case", found, ids=[case.name for case in found])


def test_the_fold_gives_the_golden_n_step_returns(case):
    x = {name: np.array(value) for name, value in case.inputs.items()}
    expected = {name: np.array(value) for name, value in case.expected.items()}
    n, gamma, (steps, width) = case.params["n"], case.params["gamma"], x["rewards"].shape
    over = (x["terminated"] | x["truncated"]).astype(bool)
    for t in range(steps):
        m = min(n, steps - t)
        first = np.zeros((m, width), bool)
        first[1:] = over[t : t + m - 1]  # the row after a final one, whatever lies there
        reward, discount, length = fold(
            x["rewards"][t : t + m], 1.0 - x["terminated"][t : t + m], first, gamma
        )
        np.testing.assert_allclose(reward, expected["returns"][t], rtol=1e-12)
        np.testing.assert_allclose(gamma * discount, expected["bootstrap_discount"][t], rtol=1e-12)
        np.testing.assert_array_equal(length, expected["n_actual"][t])
        values = x["next_values"][t + length - 1, np.arange(width)]
        np.testing.assert_allclose(
            reward + gamma * discount * values, expected["targets"][t], rtol=1e-12
        )


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="--n_step of at least 1, got 0"):
        Transitions(0, 0.9)
    with pytest.raises(ValueError, match="--sequence_length or --burn_in"):
        Sequences(-1, 5)
    with pytest.raises(ValueError, match="--sequence_length or --burn_in"):
        Sequences(0, 0)


@pytest.mark.parametrize(
    ("window", "stack"), [(Transitions(9, 0.9), 4), (Transitions(12, 0.9), 1), (Sequences(4, 8), 1)]
)
def test_a_ring_that_is_too_short_is_refused_with_what_would_do(window, stack):
    def make(capacity):
        ring = Ring(
            make_spec(stack),
            unroll_length=4,
            lanes=2,
            width=3,
            capacity=capacity,
            frame_stack=stack,
        )
        return Replay(ring, window, Uniform(window.num_items(ring)), Pacing(1, 1, 1), 1, seed=0)

    with pytest.raises(ValueError, match=r"13 rows.*got 12; raise --replay_size to 96"):
        make(72)
    make(96)


def test_what_a_batch_counts():
    assert Transitions(3, 0.9).transitions(32) == 32
    assert Sequences(40, 80).transitions(64) == 80 * 64

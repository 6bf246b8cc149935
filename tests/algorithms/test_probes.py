"""Small problems with a known answer: IMPALA must find it (the ladder of proof, T2)."""

from __future__ import annotations

import pathlib

import pytest
import torch

from torchbeast import envs
from torchbeast.algorithms import impala
from torchbeast.data import Rollout, zero_rows
from torchbeast.loops.learner import Learner
from torchbeast.loops.weights import LocalWeights
from torchbeast.nets import NetworkConfig
from torchbeast.runners.local import LocalSource

PROBES = str(pathlib.Path(__file__).parents[1] / "probes.py")
GAMMA = 0.9
T = 8
UPDATES = {6: 1000, 7: 500}


def solve(number: int) -> tuple[impala.Impala, LocalSource]:
    """Returns what IMPALA made of a probe."""
    updates = UPDATES.get(number, 200)
    config = envs.EnvConfig(f"{PROBES}:probe", {"number": number})
    spec = envs.spec(config)
    torch.manual_seed(0)
    settings = impala.Config(
        unroll_length=T,
        batch_size=8,
        discounting=GAMMA,
        learning_rate=0.01,
        optimizer="adam",
        epsilon=1e-8,
        entropy_cost=0.001,
        reward_clipping="none",
        grad_norm_clipping=1e9,
    )
    network = NetworkConfig(hidden_sizes=(16,))
    algorithm = impala.Impala(settings, network, spec, 8 * 8 * updates)
    weights = LocalWeights()
    source = LocalSource(algorithm, envs.make(config, 8, 0), weights, 8)
    learner = Learner(algorithm, source.queue, weights)
    for _ in range(updates):
        source.fill()
        learner.step()
    return algorithm, source


def answer(algorithm: impala.Impala, obs: list[float]) -> tuple[list[float], list[list[float]]]:
    """Returns values and probabilities at observations."""
    rows: Rollout = zero_rows(algorithm.spec, len(obs))._replace(obs=torch.tensor([obs])[..., None])
    with torch.no_grad():
        output, _ = algorithm.model(rows, ())
    return output.value[0].tolist(), output.logits[0].softmax(-1).tolist()


def blind_value() -> float:
    """Returns what five rewards of 1 are worth to one who cannot see how many are left.

    The value V is the mean of the targets: sums of rewards to the end, or to the end of the
    rollout, where V itself stands for the rest. Rollouts begin at rows 0, 2 or 4 of 6.
    """
    targets = []  # (rewards, factor of V)
    for start in (0, 2, 4):
        for t in range(T):
            left = 5 - (start + t) % 6
            steps = min(left, T - t)
            rewards = (1 - GAMMA**steps) / (1 - GAMMA)
            if left:  # else nobody chose this step
                targets.append((rewards, 0.0 if steps == left else GAMMA**steps))
    return sum(r for r, _ in targets) / (len(targets) - sum(f for _, f in targets))


@pytest.mark.parametrize(
    ("number", "obs", "expected"),
    [
        (1, [0.0], [1.0]),
        (2, [-1.0, 1.0], [-1.0, 1.0]),
        (3, [0.0, 1.0], [0.9, 1.0]),
        (6, [0.0], [10.0]),  # 4.1 where a time limit is taken for an end
        (7, [0.0], [blind_value()]),
    ],
)
def test_values(number: int, obs: list[float], expected: list[float]) -> None:
    algorithm, _ = solve(number)
    values, _ = answer(algorithm, obs)
    assert values == pytest.approx(expected, rel=0.04)


def test_policy_without_observation() -> None:
    algorithm, source = solve(4)
    values, (probabilities,) = answer(algorithm, [0.0])
    assert probabilities[1] > 0.95
    assert values[0] == pytest.approx(1.0, abs=0.1)
    late = [e.episode_return for e in source.episodes()[-200:]]
    assert sum(late) / len(late) > 0.9


def test_policy_that_must_look() -> None:
    algorithm, _ = solve(5)
    _, (left, right) = answer(algorithm, [-1.0, 1.0])
    assert left[0] > 0.95
    assert right[1] > 0.95

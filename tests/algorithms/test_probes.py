"""Small problems with a known answer: every algorithm must find it (the ladder of proof, T2)."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch

from torchbeast import algorithms, envs
from torchbeast.algorithms import a2c, impala, ppo
from torchbeast.algorithms.base import Algorithm
from torchbeast.data import Rollout, zero_rows
from torchbeast.loops.learner import Learner
from torchbeast.loops.weights import LocalWeights
from torchbeast.nets import NetworkConfig
from torchbeast.ops import DiagonalGaussian
from torchbeast.runners.local import LocalSource

PROBES = str(pathlib.Path(__file__).parents[1] / "probes.py")
GAMMA = 0.9
T = 8
# In the blind probes the value is a mean over what looks alike: many small steps find it.
UPDATES = {6: 1000, 7: 500, 8: 600}
SHARED = dict(unroll_length=T, batch_size=8, discounting=GAMMA, learning_rate=0.01)
FREE = dict(entropy_cost=0.001, grad_norm_clipping=1e9)
SETTINGS: dict[str, Any] = {
    "impala": impala.Config(
        **SHARED, **FREE, optimizer="adam", epsilon=1e-8, reward_clipping="none"
    ),
    "a2c": a2c.Config(**SHARED, **FREE, optimizer="adam", epsilon=1e-8),
    "ppo": ppo.Config(**SHARED, **FREE, gae_lambda=1.0, num_epochs=1, num_minibatches=1),
}
EVERY = pytest.mark.parametrize("name", SETTINGS)


def solve(name: str, number: int) -> tuple[Algorithm, LocalSource]:
    """Returns what an algorithm made of a probe."""
    updates = UPDATES.get(number, 200)
    config = envs.EnvConfig(f"{PROBES}:probe", {"number": number})
    spec = envs.spec(config)
    torch.manual_seed(0)
    network = NetworkConfig(hidden_sizes=(16,))
    algorithm = algorithms.find(name)(SETTINGS[name], network, spec, 8 * 8 * updates)
    weights = LocalWeights()
    source = LocalSource(algorithm, envs.make(config, 8, 0), weights)
    learner = Learner(algorithm, source.buffer, weights)
    for _ in range(updates):
        source.fill()
        learner.step()
    return algorithm, source


def answer(algorithm: Algorithm, obs: list[float]) -> tuple[list[float], list[list[float]]]:
    """Returns values and probabilities (or mean and deviation) at observations."""
    rows: Rollout = zero_rows(algorithm.spec, len(obs))._replace(obs=torch.tensor([obs])[..., None])
    with torch.no_grad():
        output, _ = algorithm.model(rows, ())
    policy = algorithm.model.distribution(output.logits)
    if isinstance(policy, DiagonalGaussian):
        told = torch.cat([policy.mean, policy.log_std.exp()], -1)
    else:
        told = output.logits.softmax(-1)
    return output.value[0].tolist(), told[0].tolist()


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


@EVERY
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
def test_values(name: str, number: int, obs: list[float], expected: list[float]) -> None:
    algorithm, _ = solve(name, number)
    values, _ = answer(algorithm, obs)
    assert values == pytest.approx(expected, rel=0.04)


@EVERY
def test_policy_without_observation(name: str) -> None:
    algorithm, source = solve(name, 4)
    values, (probabilities,) = answer(algorithm, [0.0])
    assert probabilities[1] > 0.95
    assert values[0] == pytest.approx(1.0, abs=0.1)
    late = [e.episode_return for e in source.episodes()[-200:]]
    assert sum(late) / len(late) > 0.9


@EVERY
def test_policy_that_must_look(name: str) -> None:
    algorithm, _ = solve(name, 5)
    _, (left, right) = answer(algorithm, [-1.0, 1.0])
    assert left[0] > 0.95
    assert right[1] > 0.95


@EVERY
def test_policy_of_numbers(name: str) -> None:
    algorithm, _ = solve(name, 8)
    _, ((mean, deviation),) = answer(algorithm, [0.0])
    assert mean == pytest.approx(2.0, abs=0.15)
    assert deviation < 0.7  # it began at 2

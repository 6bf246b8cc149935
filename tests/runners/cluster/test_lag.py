"""Rollouts through the cluster are as new as the algorithm asks, however many a worker makes."""

from __future__ import annotations

import contextlib
import sys

import pytest

pytest.importorskip("ray")  # an extra; CI has it

from ray import exceptions
from runners.cluster.fake_ray import fake_ray

from torchbeast.commands.flags import train_config
from torchbeast.runners.build import build
from torchbeast.runners.checks import checked

SMALL = (
    *("--env", "CartPole-v1", "--preset", "none", "--runner", "cluster", "--codec", "none"),
    *("--envs_per_actor", "2", "--unroll_length", "8", "--num_actors", "4"),
)


@pytest.mark.parametrize(
    ("algorithm", "flags", "lag"),
    [
        ("a2c", ("--actors_per_worker", "4"), 0),
        ("ppo", ("--actors_per_worker", "2"), 0),
        ("impala", ("--actors_per_worker", "4", "--max_lag", "1"), 1),
    ],
)
def test_rollouts_are_as_new_as_the_limit_says(
    monkeypatch: pytest.MonkeyPatch, algorithm: str, flags: tuple[str, ...], lag: int
) -> None:
    ray = fake_ray(kill=lambda worker: worker._pool.close(), exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "ray", ray)
    config = checked(train_config(algorithm, "", [*SMALL, *flags, "--batch_size", "8"]))
    parts = build(config, 0)
    with contextlib.closing(parts.source):
        parts.learner.resume(0, 0)
        lags = []
        for _ in range(5):
            parts.source.fill()
            parts.learner.step()
            lags.append(parts.learner.metrics()["policy_lag"])
    assert lags == [0.0] + [float(lag)] * 4

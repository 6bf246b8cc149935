"""One algorithm, several ways to run it: the results are the same."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from runners.test_run import BATCH, B, T, make, train

from torchbeast.algorithms import a2c, impala, ppo
from torchbeast.tools import checkpoint

ON_POLICY: dict[str, Any] = {
    "impala": impala.Config(
        unroll_length=T, batch_size=B, learning_rate=0.01, max_lag=0, reward_clipping="none"
    ),
    "a2c": a2c.Config(unroll_length=T, batch_size=B, learning_rate=0.01),
    "ppo": ppo.Config(unroll_length=T, batch_size=B, num_minibatches=2, learning_rate=0.01),
}
NORMALISED = {"normalize_observations": True, "normalize_rewards": True}


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("network", [{}, {"use_lstm": True}, NORMALISED], ids=str)
def test_serial_equals_async_without_lag(
    tmp_path: pathlib.Path, name: str, network: dict[str, Any]
) -> None:
    for shape, system in [
        ("serial", {"num_envs": 2}),
        ("async", {"num_actors": 1, "envs_per_actor": 2}),
    ]:
        learned = ON_POLICY[name]
        config = make(tmp_path / shape, learned=learned, system=system, network=network)
        assert train(config).steps == 10 * BATCH
    one, other = (checkpoint.load(tmp_path / shape / "run") for shape in ("serial", "async"))
    for key, value in one.model.items():
        assert torch.equal(value, other.model[key]), key
    games = [
        [line.split(",")[0::2] for line in (tmp_path / n / "run" / "episodes.csv").open()]
        for n in ("serial", "async")
    ]
    assert len(games[0]) > 2
    assert games[0] == games[1]


def test_serial_equals_worker_processes(tmp_path: pathlib.Path) -> None:
    for name, workers in [("serial", 0), ("workers", 2)]:
        train(make(tmp_path / name, env={"env_workers": workers}))
    one, other = (checkpoint.load(tmp_path / name / "run") for name in ("serial", "workers"))
    assert all(torch.equal(value, other.model[key]) for key, value in one.model.items())


def test_two_learners_repeat(tmp_path: pathlib.Path) -> None:
    for name, seed in [("a", 1), ("b", 1)]:
        train(make(tmp_path / name, 4, system={"num_learners": 2, "seed": seed}))
    one, other = (checkpoint.load(tmp_path / name / "run") for name in "ab")
    assert one.env is None
    for key, value in one.model.items():
        assert torch.equal(value, other.model[key]), key

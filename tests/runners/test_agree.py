"""One algorithm, several ways to run it: the results are the same."""

from __future__ import annotations

import pathlib

import pytest
import torch
from runners.test_run import BATCH, make, train

from torchbeast.tools import checkpoint


@pytest.mark.parametrize("use_lstm", [False, True])
def test_serial_equals_async_without_lag(tmp_path: pathlib.Path, use_lstm: bool) -> None:
    for name, system in [
        ("serial", {"num_envs": 2}),
        ("async", {"num_actors": 1, "envs_per_actor": 2}),
    ]:
        config = make(
            tmp_path / name,
            system=system,
            algorithm={"max_lag": 0},
            network={"use_lstm": use_lstm},
        )
        assert train(config).steps == 10 * BATCH
    one, other = (checkpoint.load(tmp_path / name / "run") for name in ("serial", "async"))
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

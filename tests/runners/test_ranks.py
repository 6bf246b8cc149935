"""Learners that share an update: none fails in silence."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from typing import Any

import pytest
import torch.distributed as dist
from runners.test_run import BATCH, PROBES, make, train

from torchbeast.algorithms import impala
from torchbeast.algorithms.base import Diverged
from torchbeast.runners.ranks import RankFailed
from torchbeast.tools import checkpoint


def ranks(path: pathlib.Path, **groups: Any) -> Any:
    system = {"num_learners": 2, "num_envs": 4} | groups.pop("system", {})
    return make(path, 30, system=system, **groups)


def test_a_killed_rank_ends_the_run_with_a_checkpoint(tmp_path: pathlib.Path) -> None:
    began = []

    def after(run: Any) -> None:
        if run.learner.version == 5:
            os.kill(run.ranks._followers._workers[0].pid, signal.SIGKILL)
            began.append(time.monotonic())

    with pytest.raises(RankFailed, match=r"learner-1 ended \(killed by SIGKILL\)"):
        train(ranks(tmp_path), after)
    assert time.monotonic() - began[0] < 60  # a frozen one is noticed after 5 minutes
    assert checkpoint.load(tmp_path / "run").step >= 5 * BATCH
    assert not dist.is_initialized()


def test_the_error_of_another_rank_is_told(tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "marker"
    kwargs = {"kind": "raise", "at_step": 20, "marker": str(marker)}
    config = ranks(tmp_path, env={"env": f"{PROBES}:fault", "env_kwargs": kwargs})
    # Rank 0 meets the fault first if it is the first to come there: then it is its own.
    with pytest.raises(Exception, match="broken in step"):
        train(config)
    assert checkpoint.load(tmp_path / "run").step > 0


def test_a_rank_that_cannot_start_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT_PARENT", str(os.getpid()))
    kwargs = {"kind": "constructor"}
    config = ranks(tmp_path, env={"env": f"{PROBES}:fault", "env_kwargs": kwargs})
    began = time.monotonic()
    with pytest.raises(RankFailed, match="broken in the constructor"):
        train(config)
    assert time.monotonic() - began < 100  # rank 0 waits 2 minutes for one that starts


def test_divergence_is_no_broken_connection(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = impala.Impala.update

    def poisoned(self: impala.Impala, batch: Any, steps: int) -> Any:
        return update(self, batch._replace(reward=batch.reward * float("nan")), steps)

    monkeypatch.setattr(impala.Impala, "update", poisoned)  # on rank 0: the sum is nan on both
    with pytest.raises(Diverged):
        train(ranks(tmp_path))

"""Learners that share an update: half the batch each is the whole batch; none fails in silence."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gymnasium import spaces
from runners.test_run import BATCH, PROBES, make, train

from torchbeast.algorithms import impala
from torchbeast.algorithms.base import Diverged
from torchbeast.data import EnvSpec
from torchbeast.nets import NetworkConfig
from torchbeast.runners.ranks import RankFailed
from torchbeast.tools import checkpoint

STEPS = 3


def updates(reduction: str, rank: int, size: int) -> list[torch.Tensor]:
    """Returns weights after some steps with one rank's columns of the data."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = EnvSpec(spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    network = NetworkConfig(hidden_sizes=(8,))
    algorithm = impala.Impala(
        impala.Config(optimizer="rmsprop_tf", epsilon=1.0, learning_rate=0.1), network, spec, 100
    )
    data = torch.randn(STEPS, 8, 3)
    share = slice(rank * 8 // size, (rank + 1) * 8 // size)
    for x in data[:, share]:
        _, features = algorithm.model.trunks(x[None])
        value = algorithm.model.value(features).square()
        loss = value.sum() if reduction == "sum" else value.mean()
        algorithm.gradient_step(loss, algorithm.optimizer, None, reduction=reduction)
    return [p.detach() for p in algorithm.model.parameters()]


def main(store: str, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    result = {reduction: updates(reduction, rank, 2) for reduction in ("sum", "mean")}
    torch.save(result, f"{store}.{rank}")
    dist.destroy_process_group()


def test_two_ranks_with_half_the_batch_equal_one_with_all(tmp_path: pathlib.Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, __file__, str(store)]
    env = os.environ | {"PYTHONPATH": str(pathlib.Path(PROBES).parent)}
    processes = [subprocess.Popen([*command, str(rank)], env=env) for rank in range(2)]
    threads = torch.get_num_threads()
    try:
        expected = {reduction: updates(reduction, 0, 1) for reduction in ("sum", "mean")}
    finally:
        torch.set_num_threads(threads)
    assert [p.wait(60) for p in processes] == [0, 0]
    one, other = (torch.load(f"{store}.{rank}") for rank in range(2))
    for reduction, weights in expected.items():
        for mine, here, there in zip(weights, one[reduction], other[reduction], strict=True):
            assert torch.equal(here, there)
            torch.testing.assert_close(here, mine, rtol=1e-5, atol=1e-6)
    assert not all(map(torch.allclose, expected["sum"], expected["mean"]))


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
    assert time.monotonic() - began[0] < 10
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


def test_a_rank_that_cannot_start_is_told(tmp_path: pathlib.Path) -> None:
    config = ranks(tmp_path, env={"env": f"{PROBES}:fault", "env_kwargs": {"kind": "grandchild"}})
    broken = {"kind": "constructor", "at_step": 0}
    os.environ["FAULT_PARENT"] = str(os.getpid())
    try:
        config.env.env_kwargs.clear()
        config.env.env_kwargs.update(broken)
        began = time.monotonic()
        with pytest.raises(RankFailed, match="broken in the constructor"):
            train(config)
    finally:
        del os.environ["FAULT_PARENT"]
    assert time.monotonic() - began < 40


def test_divergence_is_no_broken_connection(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = impala.Impala.update

    def poisoned(self: impala.Impala, batch: Any, steps: int) -> Any:
        return update(self, batch._replace(reward=batch.reward * float("nan")), steps)

    monkeypatch.setattr(impala.Impala, "update", poisoned)  # on rank 0: the sum is nan on both
    with pytest.raises(Diverged):
        train(ranks(tmp_path))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

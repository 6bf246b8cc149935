"""Runs on the nodes of a real Ray cluster on this machine."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.cluster_utils import Cluster

from torchbeast.envs import EnvConfig
from torchbeast.runners.checks import ConfigError
from torchbeast.runners.config import RunConfig, default_config
from torchbeast.runners.sweep import Job, Status, Sweep, Variant, conduct, plan
from torchbeast.runners.sweep.on_ray import RayNodes
from torchbeast.tools.checkpoint import has_checkpoint
from torchbeast.tools.signals import StopFlag

CODE = """
import pathlib, time
import gymnasium

class Slow(gymnasium.Wrapper):
    def step(self, action):
        if not pathlib.Path({gate!r}).exists():
            time.sleep(0.02)
        return super().step(action)

def make():
    return Slow(gymnasium.make("CartPole-v1"))
"""


@pytest.fixture
def cluster() -> Iterator[Any]:
    started = Cluster()
    try:
        started.add_node(num_cpus=0, include_dashboard=False)
        yield started
    finally:
        started.shutdown()


def slow_jobs(path: pathlib.Path, name: str, gate: pathlib.Path, seeds: int) -> list[Job]:
    code = path / f"{name}.py"
    code.write_text(CODE.format(gate=str(gate)))
    base = default_config("impala")
    config = RunConfig(
        algo=base.algo,
        env=EnvConfig(env=f"{code}:make"),
        algorithm=dataclasses.replace(base.algorithm, batch_size=2, unroll_length=5),
        network=dataclasses.replace(base.network, hidden_sizes=(8,)),
        system=dataclasses.replace(base.system, total_steps=400, device="cpu"),
        output=dataclasses.replace(
            base.output,
            eval_episodes=1,
            log_interval=0.0,
            checkpoint_interval=0.5,
            disable_tensorboard=True,
        ),
    )
    return plan([(Variant(name, {}), config)], seeds, path / name)


def nodes(cluster: Any, folder: pathlib.Path, node_dir: pathlib.Path | None = None) -> RayNodes:
    return RayNodes(cluster.address, folder, 1, 0, str(node_dir) if node_dir else None)


@pytest.mark.timeout(400)
def test_runs_on_nodes(cluster: Any, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="--cpus_per_run"):
        nodes(cluster, tmp_path / "none")
    first = cluster.add_node(num_cpus=1)
    a_lost_node_costs_what_came_after_the_checkpoint(cluster, first, tmp_path)
    runs_that_are_stopped_save_and_go_on(cluster, tmp_path)


def a_lost_node_costs_what_came_after_the_checkpoint(
    cluster: Any, first: Any, tmp_path: pathlib.Path
) -> None:
    gate, far = tmp_path / "gate", tmp_path / "far"
    jobs = slow_jobs(tmp_path, "far_away", gate, seeds=2)
    folder = jobs[0].path.parent
    place = nodes(cluster, folder, far)
    sweep = Sweep(jobs, place, retries=2)
    lost: list[int] = []

    def show(statuses: list[Status]) -> None:
        begun = [s for s in statuses if s.progress.steps > 20 and has_checkpoint(s.job.path)]
        if begun and not lost:
            lost.append(begun[0].progress.steps)
            cluster.remove_node(first, allow_graceful=False)
            shutil.rmtree(far)
            cluster.add_node(num_cpus=1)
            gate.touch()

    conduct(sweep, place, StopFlag(), show)
    assert [status.state for status in sweep.statuses] == ["done", "done"], sweep.statuses
    assert sum(status.tries for status in sweep.statuses) == 1
    assert all((far / "far_away" / job.path.name / "run.lock").exists() for job in jobs)
    assert not any((job.path / "run.lock").exists() for job in jobs)
    consoles = [(job.path / "console.log").read_text() for job in jobs]
    assert sum("continues at step" in text for text in consoles) == 1
    assert not list(folder.glob(".*"))


def runs_that_are_stopped_save_and_go_on(cluster: Any, tmp_path: pathlib.Path) -> None:
    gate = tmp_path / "other gate"
    jobs = slow_jobs(tmp_path, "shared", gate, seeds=2)
    place, stop = nodes(cluster, jobs[0].path.parent), StopFlag()

    def show(statuses: list[Status]) -> None:
        if any(status.progress.steps > 20 for status in statuses) and not stop.requested:
            stop.request("SIGINT")

    sweep = Sweep(jobs, place, retries=0)
    conduct(sweep, place, stop, show)
    assert [status.state for status in sweep.statuses] == ["stopped", "stopped"]
    assert sum(has_checkpoint(job.path) for job in jobs) == 1  # there was one slot
    gate.touch()
    place = nodes(cluster, jobs[0].path.parent)
    sweep = Sweep(jobs, place, retries=0)
    conduct(sweep, place, StopFlag(), lambda statuses: None)
    assert [status.state for status in sweep.statuses] == ["done", "done"], sweep.statuses
    consoles = [(job.path / "console.log").read_text() for job in jobs]
    assert sum("continues at step" in text for text in consoles) == 1

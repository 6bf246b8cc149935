"""Runs on a real Ray cluster of several nodes: they learn, and nodes and learners may die."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from processes import busy, workers
from runners.cluster.nodes import Nodes, Training

from torchbeast.tools import checkpoint

pytest.importorskip("ray")  # an extra; CI has it

T, B = 16, 8
IMPALA = ("impala", "--env", "CartPole-v1", "--preset", "none", "--envs_per_actor", "4")
SIZES = ("--unroll_length", str(T), "--batch_size", str(B), "--actors_per_worker", "1")
FOREVER = ("--total_steps", "1000M", "--checkpoint_interval", "1")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        nodes.start()
        nodes.start()
        yield nodes
    finally:
        nodes.close()


@pytest.fixture
def started(nodes: Nodes, tmp_path: pathlib.Path) -> Iterator[list[Training]]:
    """Gives a list for runs, which are ended with the test."""
    runs: list[Training] = []
    yield runs
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()


@pytest.mark.timeout(300)
def test_nodes_and_learners_may_die(
    nodes: Nodes, started: list[Training], tmp_path: pathlib.Path
) -> None:
    run = nodes.train(tmp_path, *IMPALA, *SIZES, *FOREVER, "--num_actors", "2")
    started.append(run)
    run.until(lambda: run.last("nodes") == 2)

    nodes.kill(nodes.running[1])
    killed, step = time.monotonic(), run.last("step")
    run.until(lambda: run.last("step") > step + 4 * T * B, 15)
    run.until(lambda: run.last("workers") == 1, 15)
    nodes.start()
    run.until(lambda: run.last("nodes") == 2)
    assert run.last("worker_restarts") >= 1
    assert time.monotonic() - killed < 120 * busy()

    (learner,) = (p for p in workers(run.process.pid) if p.name() == "the learner")
    learner.send_signal(signal.SIGKILL)
    killed_at = time.time()  # rows from before may be of steps that are lost
    run.until(lambda: "goes on from step" in run.told())
    run.until(lambda: run.last("_time") > killed_at + 1)
    assert run.interrupt() == 130
    rows = run.rows()
    assert all(row["step"] == row["updates"] * T * B for row in rows)
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    saved = checkpoint.load(run.path)
    assert saved.step >= rows[-1]["step"]


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "flags",
    [
        ("ppo", "--env", "CartPole-v1", "--preset", "none", "--inference", "central"),
        ("r2d2", "--env", "TMaze-v0", "--min_replay_size", "400", "--replay_size", "4000"),
        (
            *("sac", "--env", "Pendulum-v1", "--min_replay_size", "200"),
            *("--replay_size", "4000", "--replay_ratio", "8"),
        ),
    ],
    ids=lambda flags: flags[0],
)
def test_each_kind_of_algorithm_learns_unchanged(
    nodes: Nodes, started: list[Training], tmp_path: pathlib.Path, flags: tuple[str, ...]
) -> None:
    small = ("--num_actors", "2", "--envs_per_actor", "4", "--total_steps", "1200")
    run = nodes.train(tmp_path, *flags, *small, "--batch_size", "8")
    started.append(run)
    assert run.end(150) == 0, run.told()
    assert run.last("step") >= 1200
    assert run.last("updates") >= 2
    assert run.last("rollouts") > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_learners_each_with_workers_of_its_own(
    nodes: Nodes, started: list[Training], tmp_path: pathlib.Path
) -> None:
    flags = ("--num_learners", "2", "--cpus_per_actor", "0.25", "--num_actors", "4")
    run = nodes.train(tmp_path, *IMPALA, *SIZES, *flags, *FOREVER)
    started.append(run)
    run.until(lambda: run.last("step") > 10 * T * B)
    actors = set(range(4))
    run.until(lambda: {int(row["env"]) // 4 for row in run.episodes()} == actors)
    follower = next(p for p in psutil.process_iter(["cmdline"]) if is_learner(p))
    step = run.last("step")
    follower.send_signal(signal.SIGKILL)
    run.until(lambda: "goes on from step" in run.told())
    run.until(lambda: run.last("step") > step + 4 * T * B)
    assert run.interrupt() == 130


def is_learner(process: psutil.Process) -> bool:
    """Returns whether this is a learner that Ray placed."""
    return "ray::_Learner" in " ".join(process.info["cmdline"] or [])


def test_a_cluster_wants_its_token(
    nodes: Nodes, started: list[Training], tmp_path: pathlib.Path
) -> None:
    run = nodes.train(tmp_path, *IMPALA, "--address", nodes.address, address=False)
    started.append(run)
    assert run.end() == 2
    assert "--cluster_token FILE" in run.told()


@pytest.mark.slow
def test_a_wrong_token_is_told(
    nodes: Nodes, started: list[Training], tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "other"
    other.write_text("x" * 32)
    flags = ("--address", nodes.address, "--cluster_token", str(other))
    run = nodes.train(tmp_path, *IMPALA, *flags, address=False)
    started.append(run)
    assert run.end() == 3
    assert "expected a Ray cluster at" in run.told()
    assert "Traceback" not in run.output.read_text()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_machine_alone_is_a_cluster_whose_files_are_private(
    nodes: Nodes, started: list[Training], tmp_path: pathlib.Path
) -> None:
    flags = (*IMPALA, *SIZES, "--num_actors", "1", "--total_steps", "1000")
    run = nodes.train(tmp_path, *flags, address=False)
    started.append(run)
    assert run.end(150) == 0, run.told()
    assert run.last("nodes") == 1
    assert os.environ.get("RAY_AUTH_MODE") is None

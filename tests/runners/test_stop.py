"""Signals, kills and broken actors: runs end soon, saved, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from processes import busy, gone, nothing_new_since, shared_files, workers
from runners.test_run import BATCH, PROBES, make, train

from torchbeast import cli
from torchbeast.tools import checkpoint
from torchbeast.tools.run_directory import read_meta

SOON = 5.0  # seconds in which a run must end after a signal
PONG = ["--env", "PongNoFrameskip-v4", "--network", "shallow"]
CARTPOLE = ["--env", "CartPole-v1"]
SHAPES = {
    "serial": [*CARTPOLE],
    "pong": [*PONG, "--num_envs", "2"],
    "async": [*CARTPOLE, "--num_actors", "2"],
    "one actor": [*CARTPOLE, "--num_actors", "1"],
    "async pong": [*PONG, "--num_actors", "2"],
    "learners": [*CARTPOLE, "--num_learners", "2"],
    "all": [*CARTPOLE, "--num_learners", "2", "--num_actors", "2"],
}


def flags(path: pathlib.Path, shape: str, total_steps: str = "1G") -> list[str]:
    return [
        *["train", "impala", *SHAPES[shape], "--savedir", str(path), "--xpid", "run"],
        *["--total_steps", total_steps, "--batch_size", "2", "--unroll_length", "5"],
        *["--torch_threads", "1", "--eval_episodes", "0", "--disable_tensorboard"],
        *["--log_interval", "0"],
    ]


@contextlib.contextmanager
def started(path: pathlib.Path, shape: str) -> Iterator[subprocess.Popen[str]]:
    """Gives a run that has learned, in a session of its own."""
    path.mkdir(exist_ok=True)
    with (path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "torchbeast.cli", *flags(path, shape)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
    log = path / "run" / "logs.csv"
    deadline = time.monotonic() + 60 * busy()
    try:
        while not (log.is_file() and log.read_text().count("\n") > 3):
            assert process.poll() is None, (path / "output").read_text()
            assert time.monotonic() < deadline, "it does not learn"
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ("serial", "SIGINT"),
        ("pong", "SIGTERM"),
        ("async", "SIGTERM"),
        pytest.param("async pong", "SIGINT", marks=pytest.mark.slow),
        ("learners", "SIGTERM"),
    ],
)
def test_a_signal_ends_a_run_soon_and_saved(tmp_path: pathlib.Path, shape: str, name: str) -> None:
    before = shared_files()
    with started(tmp_path, shape) as process:
        children = family(process)
        assert len(children) >= (2 if "async" in shape else 1 if shape == "learners" else 0)
        asked = time.monotonic()
        if name == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        else:
            process.send_signal(signal.SIGTERM)
        code = process.wait(60 * busy())
        took = time.monotonic() - asked
    text = (tmp_path / "output").read_text()
    assert code == (130 if name == "SIGINT" else 143), text
    assert took < SOON * busy()
    assert "Traceback" not in text
    assert "stopped and saved; continue with: torchbeast resume" in text
    assert gone(children)
    assert nothing_new_since(before)
    saved = checkpoint.load(tmp_path / "run")
    assert saved.step > 0
    last = (tmp_path / "run" / "logs.csv").read_text().splitlines()[-1]
    assert int(last.split(",")[2]) == saved.step
    assert not read_meta(tmp_path / "run")["successful"]  # it is not finished


@pytest.mark.parametrize(
    "shape", ["serial", "one actor", pytest.param("learners", marks=pytest.mark.slow)]
)
def test_the_same_name_continues(
    tmp_path: pathlib.Path, shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(flags(tmp_path, shape, "40")) == 0
    assert cli.main(flags(tmp_path, shape, "80")) == 0
    text = capsys.readouterr().out
    how = "exactly where it stopped" if shape == "serial" else "with new episodes"
    assert f"continues at step 40, {how}" in text
    rows = (tmp_path / "run" / "logs.csv").read_text().splitlines()
    assert [int(row.split(",")[2]) for row in rows[1:]] == [10 * k for k in range(1, 9)]


@pytest.mark.slow
def test_a_killed_actor_does_not_end_the_run(tmp_path: pathlib.Path) -> None:
    restarts = []

    def after(run: Any) -> None:
        if run.learner.version == 3:
            os.kill(run.source._remotes[0].worker.pid, signal.SIGKILL)
        restarts.append(run.source.metrics()["actor_restarts"])

    result = train(make(tmp_path, 300, system={"num_actors": 2}), after)
    assert (result.exit_code, result.steps) == (0, 300 * BATCH)
    assert restarts[-1] == 1
    assert "killed by SIGKILL; it starts again" in (tmp_path / "run" / "out.log").read_text()


def test_an_actor_that_always_breaks_ends_the_run(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "fault.yaml"
    settings.write_text("env: {env_kwargs: {kind: raise, at_step: 12}}\n")
    arguments = flags(tmp_path, "async")
    arguments[arguments.index("CartPole-v1")] = f"{PROBES}:fault"
    arguments += ["--config", str(settings), "--max_restarts", "1", "--num_actors", "2"]
    assert cli.main(arguments) == 3
    text = capsys.readouterr().err
    assert 'raise RuntimeError("broken in step")' in text
    assert "after 1 restarts (--max_restarts)" in text
    assert checkpoint.load(tmp_path / "run").step > 0
    assert not [one for one in workers() if one.name().startswith("actor")]


def test_workers_die_with_a_killed_parent(tmp_path: pathlib.Path) -> None:
    with started(tmp_path, "all") as process:
        children = family(process)
        assert len(children) >= 3
        process.kill()
        process.wait()
        assert gone(children)

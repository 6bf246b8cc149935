"""Sweeps, as a person types them: real runs on the slots of this machine."""

from __future__ import annotations

import contextlib
import csv
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from processes import in_time

from torchbeast import cli
from torchbeast.tools.run_directory import read_meta

SMALL = [
    *["--env", "CartPole-v1", "--preset", "none", "--batch_size", "2", "--unroll_length", "5"],
    *["--total_steps", "300", "--eval_episodes", "1", "--disable_tensorboard"],
    *["--log_interval", "0", "--hidden_sizes", "8"],
]
LIMIT = 240.0  # seconds for runs on a machine that does more than this


def sweep(path: pathlib.Path, *more: str) -> int:
    return cli.main(["sweep", "impala", *SMALL, "--savedir", str(path), "--xpid", "s", *more])


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
def test_two_variants_of_two_seeds(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--vary", "learning_rate=1e-3,1e-4", "--seeds", "2"]
    assert sweep(tmp_path, *flags) == 0
    out = capsys.readouterr().out
    assert "2 of 2" in out
    assert out.count("running on core") == 4
    folder = tmp_path / "s"
    results = rows(folder / "results.csv")
    assert [(r["learning_rate"], r["seed"]) for r in results] == [
        *[("1e-3", "1"), ("1e-3", "2"), ("1e-4", "1"), ("1e-4", "2")]
    ]
    for row in results:
        run = pathlib.Path(row["path"])
        assert run == folder / f"{row['variant']}-seed{row['seed']}"
        assert row["state"] == "done"
        assert int(row["steps"]) >= 300
        assert float(row["mean_return"]) > 0
        assert float(row["evaluation"]) > 0
        assert read_meta(run)["args"]["system"]["seed"] == int(row["seed"])
        assert read_meta(run)["args"]["algorithm"]["learning_rate"] == float(row["learning_rate"])
        if hasattr(os, "sched_getaffinity"):
            assert read_meta(run)["hardware"]["cpu_allowed"] == 1
    for summary in rows(folder / "summary.csv"):
        mine = [float(r["mean_return"]) for r in results if r["variant"] == summary["variant"]]
        assert float(summary["mean_return"]) == pytest.approx(sum(mine) / 2, rel=1e-4)
        assert float(summary["low"]) <= float(summary["mean_return"]) <= float(summary["high"])
    assert (folder / "curves.png").stat().st_size > 5000

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/logs.csv")}
    assert sweep(tmp_path, *flags) == 0  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/logs.csv")} == before
    assert "running" not in capsys.readouterr().out
    for others, words in [
        (["--vary", "learning_rate=1e-3", "--seeds", "2"], "learning_rate=1e-4"),
        ([*flags, "--discounting", "0.9"], "--discounting 0.99"),
        ([*flags, "--total_steps", "400"], "--total_steps 300"),
    ]:
        assert sweep(tmp_path, *others) == 2
        assert words in capsys.readouterr().err


ENVIRONMENT = """
import pathlib, time
import gymnasium

class Slow(gymnasium.Wrapper):
    def step(self, action):
        if not pathlib.Path({gate!r}).exists():
            time.sleep(0.02)
        return super().step(action)

class Broken(gymnasium.Wrapper):
    def step(self, action):
        raise RuntimeError("the wheel came off")

def make_slow():
    return Slow(gymnasium.make("CartPole-v1"))

def make_broken():
    return Broken(gymnasium.make("CartPole-v1"))
"""


@contextlib.contextmanager
def going_on(path: pathlib.Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Gives a sweep of which a run has learned."""
    arguments = ["sweep", "impala", *SMALL, "--savedir", str(path), "--xpid", "s", *flags]
    with (path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "torchbeast", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + LIMIT / 2
    logs = (path / "s").glob
    try:
        while not any(len(log.read_text().splitlines()) > 3 for log in logs("*/logs.csv")):
            assert process.poll() is None, (path / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(LIMIT)
def test_ctrl_c_saves_and_the_same_command_goes_on(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate, code = tmp_path / "gate", tmp_path / "slow.py"
    code.write_text(ENVIRONMENT.format(gate=str(gate)))
    # Half a minute until the gate opens: else a run may be over before it is stopped.
    flags = ["--env", f"{code}:make_slow", "--seeds", "2", "--total_steps", "1500"]
    folder = tmp_path / "s"
    with going_on(tmp_path, *flags) as process:
        assert sweep(tmp_path, *flags) == 6  # it goes on already
        assert "alone" in capsys.readouterr().err
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, (tmp_path / "output").read_text()
    assert "the same command goes on" in (tmp_path / "output").read_text()
    states = {row["seed"]: row["state"] for row in rows(folder / "results.csv")}
    assert set(states.values()) == {"stopped"}
    gate.touch()
    assert sweep(tmp_path, *flags) == 0
    assert {row["state"] for row in rows(folder / "results.csv")} == {"done"}
    consoles = [path.read_text() for path in folder.glob("*/console.log")]
    assert any("continues at step" in text for text in consoles)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of this")
@pytest.mark.timeout(LIMIT)
def test_runs_of_a_sweep_that_was_killed_save_and_leave(tmp_path: pathlib.Path) -> None:
    code = tmp_path / "slow.py"
    code.write_text(ENVIRONMENT.format(gate="never"))
    with going_on(tmp_path, "--env", f"{code}:make_slow", "--seeds", "1") as process:
        process.kill()
        process.wait()
        console = tmp_path / "s" / "impala-seed1" / "console.log"
        assert in_time(lambda: "stopped and saved" in console.read_text(), 60), console.read_text()


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
def test_a_variant_that_fails_does_not_stop_the_others(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "broken.py"
    code.write_text(ENVIRONMENT.format(gate="x"))
    flags = ["--vary", f"env={code}:make_broken,CartPole-v1", "--seeds", "1", "--retries", "1"]
    assert sweep(tmp_path, *flags) == 3
    results = {row["env"]: row for row in rows(tmp_path / "s" / "results.csv")}
    assert results["CartPole-v1"]["state"] == "done"
    assert results[f"{code}:make_broken"]["state"] == "failed"
    out = capsys.readouterr().out
    assert out.count("will be tried again") == 1
    assert "the wheel came off" in out
    console = pathlib.Path(results[f"{code}:make_broken"]["path"]) / "console.log"
    assert str(console) in out
    assert console.read_text().count("the wheel came off") >= 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--vary", "learning_rat=1,2"], ["learning_rat", "learning_rate"]),
        (["--vary", "learning_rate"], ["NAME=V1,V2"]),
        (["--vary", "learning_rate=1,,2"], ["NAME=V1,V2"]),
        (["--vary", "learning_rate=1,1"], ["learning_rate=1", "twice"]),
        (["--vary", "learning_rate=1", "--vary", "learning_rate=2"], ["learning_rate", "once"]),
        (["--vary", "seed=1,2"], ["--seeds"]),
        (["--vary", "use_lstm=yes"], ["use_lstm=true,false"]),
        (["--vary", "batch_size=2,3", "--num_envs", "4"], ["batch_size=3", "--num_envs"]),
        (["--vary", "env=CartPole-v1,CartPol-v1"], ["env=CartPol-v1", "nearest"]),
        (["--variants", "nothing.yaml"], ["nothing.yaml"]),
        (["--seeds", "0"], ["--seeds"]),
        (["--retries", "-1"], ["--retries"]),
        (["--cpus_per_run", "4000"], ["--cpus_per_run", "cores"]),
        (["--gpus_per_run", "900"], ["--gpus_per_run"]),
        (["--device", "cuda"], ["--gpus_per_run"]),
        (["--device", "cuda:1"], ["--device", "slots"]),
        (["--restart", "fresh"], ["--restart", "--xpid"]),
        (["--node_dir", "/tmp"], ["--address"]),
        (["--runner", "cluster"], ["--runner cluster", "--address"]),
        (["--address", "127.0.0.1:1"], ["--cluster_token"]),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: list[str]
) -> None:
    assert sweep(tmp_path, *flags) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not (tmp_path / "s").exists()


def test_values_that_a_flag_does_not_take(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        sweep(tmp_path, "--vary", "learning_rate=0.1,fast")
    assert end.value.code == 2
    assert "learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_ray_is_an_extra(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep(tmp_path, "--address", "auto", "--trust_network") == 2
    assert "torchbeast[ray]" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_run_is_no_sweep(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "meta.json").write_text("{}")
    assert sweep(tmp_path) == 2
    assert "which is a run" in capsys.readouterr().err

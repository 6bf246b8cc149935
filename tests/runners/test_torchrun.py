"""Learners that torchrun, or somebody on another machine, starts."""

from __future__ import annotations

import contextlib
import csv
import itertools
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import psutil
import pytest
from probes import episode_length
from processes import busy, gone
from runners.test_run import BATCH, PROBES, make, rows

from torchbeast.data.process import Worker
from torchbeast.runners import run as running
from torchbeast.runners.build import build
from torchbeast.runners.checks import ConfigError
from torchbeast.runners.config import RunConfig, SystemConfig
from torchbeast.runners.follow import follow
from torchbeast.runners.followers import Torchrun
from torchbeast.runners.meeting import RankFailed
from torchbeast.runners.ranks import Ranks
from torchbeast.tools import checkpoint
from torchbeast.tools.run_directory import RunDirectory, read_meta

FLAGS = [
    *["--batch_size", "4", "--unroll_length", "5", "--eval_episodes", "0", "--xpid", "run"],
    *["--disable_tensorboard", "--log_interval", "0", "--preset", "none"],
]


@contextlib.contextmanager
def torchrun(
    path: pathlib.Path, fault: dict[str, str], *flags: str, restarts: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """Gives torchrun with two learners, whose output is the file ``output``."""
    kwargs = [f"{name}={value}" for name, value in fault.items()]
    with (path / "output").open("w") as output:
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "torch.distributed.run", "--standalone"],
                *["--nproc_per_node", "2"],
                *["--max_restarts", str(restarts), "-m", "torchbeast", "train", "impala"],
                *["--env", f"{PROBES}:fault", "--env_kwargs", *kwargs],
                *["--savedir", str(path), *FLAGS, *flags],
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if not ended(process) else []
        for one in [process, *family]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.wait()


def games_in(steps: int) -> int:
    """Returns how many games end in so many steps of a CountingEnv, of which a reset takes one."""
    ends = itertools.accumulate(episode_length(n) + 1 for n in range(steps))
    return sum(end - 1 <= steps for end in ends)


def ended(process: subprocess.Popen[str]) -> bool:
    return process.poll() is not None


def test_a_killed_learner_is_started_again_and_the_run_goes_on(tmp_path: pathlib.Path) -> None:
    fault = {"kind": "kill", "at_step": "100", "marker": str(tmp_path / "marker"), "rank": "1"}
    with torchrun(tmp_path, fault, "--total_steps", "2000", restarts=1) as process:
        code = process.wait(100 * busy())
    text = (tmp_path / "output").read_text()
    assert code == 0, text
    assert "continues at step 960," in text  # when that environment made 100
    assert len(read_meta(tmp_path / "run")["resumed"]) == 1
    steps = [int(row["step"]) for row in rows(tmp_path)]
    assert steps == list(range(20, 2001, 20))
    with (tmp_path / "run" / "episodes.csv").open() as file:
        told = list(csv.DictReader(file))
    games = Counter(int(row["env"]) for row in told if int(row["step"]) > 960)
    assert games == dict.fromkeys(range(8), games_in((2000 - 960) // 8))  # of both learners
    assert int(rows(tmp_path)[-1]["episodes"]) == len(told)
    assert checkpoint.load(tmp_path / "run").state["statistics"]["episodes"] == len(told)
    assert {p.name for p in tmp_path.iterdir()} == {"run", "latest", "marker", "output"}


def test_what_another_learner_warns_of_is_in_the_log_of_the_run(tmp_path: pathlib.Path) -> None:
    fault = {"kind": "kill", "at_step": "100", "marker": str(tmp_path / "marker"), "rank": "1"}
    with torchrun(tmp_path, fault, "--total_steps", "4000", "--num_actors", "2") as process:
        assert process.wait(100 * busy()) == 0, (tmp_path / "output").read_text()
    text = (tmp_path / "run" / "out.log").read_text()
    assert re.search(r"learner 1: actor 0 .*SIGKILL", text), text


@pytest.mark.slow
def test_what_failed_on_another_rank_is_seen(tmp_path: pathlib.Path) -> None:
    fault = {"kind": "raise", "at_step": "100", "rank": "1"}
    with torchrun(tmp_path, fault, "--total_steps", "1G") as process:
        code = process.wait(60 * busy())
    text = (tmp_path / "output").read_text()
    assert code == 1
    assert text.index("learner 1 of 2 failed:\nTraceback") < text.index("broken in step")
    assert checkpoint.load(tmp_path / "run").step > 0


@pytest.mark.slow
def test_a_signal_to_torchrun_saves_and_all_leave(tmp_path: pathlib.Path) -> None:
    with torchrun(tmp_path, {"at_step": "-1"}, "--total_steps", "1G") as process:
        deadline = time.monotonic() + 60 * busy()
        log = tmp_path / "run" / "logs.csv"
        while not (log.is_file() and log.read_text().count("\n") > 3):
            assert not ended(process), (tmp_path / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(60 * busy())
        assert time.monotonic() - asked < 10 * busy()  # torchrun itself kills after 30 seconds
        assert gone(children)
    text = (tmp_path / "output").read_text()
    assert "stopped and saved; continue with: torchbeast resume" in text
    assert checkpoint.load(tmp_path / "run").step == int(rows(tmp_path)[-1]["step"])


def test_the_number_of_learners_is_the_world_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Torchrun.here() is None
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, value)
    assert Torchrun.here() is None  # not all are set
    monkeypatch.setenv("MASTER_PORT", "1")
    here = Torchrun.here()
    assert here is not None
    assert (here.rank, here.applied(RunConfig()).system.num_learners) == (1, 3)
    with pytest.raises(ConfigError, match=r"--num_learners 3, as many .*torchrun.* got 2"):
        here.applied(RunConfig(system=SystemConfig(num_learners=2)))


class Elsewhere:
    """A follower that comes by TCP, as from another machine."""

    address = "tcp://127.0.0.1:0"

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def start(self, address: str) -> None:
        self.worker = Worker(come, (self.config, address))

    def failure(self) -> str | None:
        return None if self.worker.alive else self.worker.exit_text()

    def close(self) -> None:
        self.left = self.worker.connection.poll(20 * busy()) and self.worker.connection.recv()
        self.worker.kill()


def come(connection: Connection, config: RunConfig, address: str) -> None:
    """Tells how it went."""
    try:
        follow(config, 1, address)
    except RankFailed as error:
        connection.send(str(error))
    else:
        connection.send("in peace")


def config_of(path: pathlib.Path, **groups: Any) -> RunConfig:
    return make(path, 30, system={"num_learners": 2, "num_envs": 4}, **groups)


def test_a_follower_comes_by_tcp(tmp_path: pathlib.Path) -> None:
    config = config_of(tmp_path)
    followers = Elsewhere(config)
    with RunDirectory(config.output.savedir, config.output.xpid) as directory:
        assert running.train(config, directory, followers).steps == 30 * BATCH
    assert followers.left == "in peace"


@pytest.mark.slow
def test_a_follower_whose_rank_0_is_gone_ends(tmp_path: pathlib.Path) -> None:
    config = config_of(tmp_path)
    followers = Elsewhere(config)
    algorithm, source, _ = build(config, 0)
    try:
        ranks = Ranks(followers, 2, algorithm)
        assert ranks._meeting is not None
        ranks._meeting.close()  # without a word, as when it is killed
        began = time.monotonic()
        followers.close()
    finally:
        source.close()
    assert "learner 1 of 2 is left alone" in str(followers.left)
    assert time.monotonic() - began < 10 * busy()

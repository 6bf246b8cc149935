"""Environments served to a run, as a person types it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from processes import in_time, stopped, workers

from torchbeast import cli, envs
from torchbeast.commands.servers import Servers, Serving, address_of
from torchbeast.envs import EnvConfig

pytest.importorskip("grpc")

from torchbeast.envs import remote

PROBES = pathlib.Path(__file__).parents[1] / "probes.py"

SERVE = [sys.executable, "-m", "torchbeast.cli", "serve", "--env", "CartPole-v1"]
TRAIN = ["--env", "CartPole-v1", "--preset", "none", "--unroll_length", "5", "--batch_size", "4"]
QUIET = ["--disable_tensorboard", "--torch_threads", "1", "--eval_episodes", "2"]


@contextlib.contextmanager
def serving(address: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Runs servers that listen, and ends them as Ctrl-C does."""
    command = [*SERVE, "--address", address, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            count = int(more[more.index("--num_servers") + 1]) if "--num_servers" in more else 1
            for _ in range(count):
                assert "CartPole-v1 at" in process.stdout.readline()
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()


@pytest.mark.slow
def test_a_run_outlives_a_server(tmp_path: pathlib.Path) -> None:
    address = f"unix:{tmp_path}/s"
    where = [f"{address}.0", f"{address}.1"]
    with serving(address, "--num_servers", "2") as servers:
        # From the start, for the run must begin with one that is about to go.
        command = [sys.executable, "-m", "torchbeast.cli", "train", "impala", *TRAIN, *QUIET]
        command += ["--env_servers", *where, "--num_envs", "4", "--total_steps", "12000"]
        command += ["--savedir", str(tmp_path), "--xpid", "served", "--log_interval", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            log = tmp_path / "served" / "logs.csv"
            deadline = time.monotonic() + 60
            while not (log.is_file() and len(log.read_text().splitlines()) > 2):
                assert time.monotonic() < deadline
                assert run.poll() is None
                time.sleep(0.02)
            victim = workers(servers.pid)[-1]
            os.kill(victim.pid, signal.SIGKILL)
            out, _ = run.communicate(timeout=90)
            assert run.returncode == 0, out
        assert "evaluation: mean return" in out
        assert "connecting again" in (tmp_path / "served" / "out.log").read_text()
        assert in_time(lambda: len(workers(servers.pid)) >= 2, 60)  # another took its place
    assert not list(tmp_path.glob("s.*[0-9]"))  # no socket stays behind
    # What was served has the same name here: no server is needed to see it play.
    assert cli.main(["eval", "served", "--episodes", "1", "--savedir", str(tmp_path)]) == 0


def test_each_of_several_servers_finds_a_free_port() -> None:
    assert [address_of("h:0", i, "--address") for i in range(2)] == ["h:0", "h:0"]
    assert [address_of("h:70", i, "--address") for i in range(2)] == ["h:70", "h:71"]


@contextlib.contextmanager
def supervised(where: str, env: EnvConfig, **options: Any) -> Iterator[Servers]:
    with Servers(Serving(env, **options), [where], "--address") as servers:
        yield servers
        [server] = servers._servers
        first, deadline = server.worker, time.monotonic() + 60
        while server.worker in (None, first):
            assert time.monotonic() < deadline
            servers.watch(0.1)
        assert remote.ask(where).num_servers == 1  # another took its place


def test_a_server_that_gives_no_sign_of_life_is_replaced(tmp_path: pathlib.Path) -> None:
    with supervised(f"unix:{tmp_path}/s", EnvConfig("CartPole-v1")) as servers:
        [server] = servers._servers
        assert server.worker is not None
        psutil.Process(server.worker.pid).suspend()
        assert stopped(server.worker.pid)
        server.messages()
        server.silent = 1e9


@pytest.mark.slow
def test_a_server_with_an_environment_that_hangs_is_replaced(tmp_path: pathlib.Path) -> None:
    config, where = (
        EnvConfig(f"{PROBES}:fault", {"kind": "hang", "at_step": 1}),
        f"unix:{tmp_path}/s",
    )
    with supervised(where, config, step_timeout=0.2):
        env = remote.RemoteEnv(where, 1, 0, step_timeout=0.2)
        env.reset()
        env.send(np.zeros(1, np.int64))
        with pytest.raises(envs.EnvError, match=r"within 0.2 s"):
            env.recv()
        env.close()


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    code = cli.main(["serve", "--env", "CartPole-v1", *flags])
    text = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in text
    return text


def test_what_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    assert "token" in refused(capsys, "--address", "0.0.0.0:0")
    assert "--env_servers" in refused(capsys, "--env_servers", "unix:/tmp/x")
    assert "--key" in refused(capsys, "--certificate", "x.pem")
    assert "--step_timeout" in refused(capsys, "--step_timeout", "0")
    assert "--num_servers" in refused(capsys, "--num_servers", "0")
    assert "host:port" in refused(capsys, "--num_servers", "2", "--address", "nowhere")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused(capsys, "--address", f"127.0.0.1:{port}")

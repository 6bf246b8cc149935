"""PolyBeast's three commands: the ancestor's flags, in any order, and how each of them ends."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from gymnasium import spaces

pytest.importorskip("grpc")

from processes import free_ports, workers

from torchbeast import envs, polybeast, polybeast_env, polybeast_learner
from torchbeast.commands.errors import UsageError
from torchbeast.commands.flags import parse
from torchbeast.data import EnvSpec
from torchbeast.envs import EnvConfig
from torchbeast.envs.remote import EnvServer

from .test_monobeast import ANCESTOR as MONOBEAST

pytestmark = pytest.mark.timeout(300)  # five processes import torch, on whatever machine

PATIENCE = 200.0  # seconds
PROBES = pathlib.Path(__file__).with_name("probes.py")
PICTURES = EnvSpec(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6), 4)

# polybeast_env.py and polybeast_learner.py of 2019, their flags and defaults.
SERVERS = {"pipes_basename": "unix:/tmp/polybeast", "num_servers": 4, "env": "PongNoFrameskip-v4"}
LEARNER = {name: value for name, value in MONOBEAST.items() if name not in ("env", "num_buffers")}
LEARNER |= {
    "pipes_basename": "unix:/tmp/polybeast",
    "savedir": "~/palaas/torchbeast",
    "num_inference_threads": 2,
    "num_actions": None,  # 6 there, which had to be said; here it is asked
    "max_learner_queue_size": None,
    "write_profiler_trace": False,
}
OURS = {
    "seed",
    "optimizer",
    "vtrace_lambda",
    "envs_per_actor",
    "network",
    "env_token",
    "env_certificate",
    "step_timeout",
}
TINY = "--num_actors 2 --batch_size 2 --unroll_length 5 --num_learner_threads 1"
ENDLESS = [*TINY.split(), "--total_steps", "1G"]


def flat(flags: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in dataclasses.asdict(flags).items():
        found |= value if isinstance(value, dict) else {name: value}
    return found


def test_flags_and_defaults_are_the_ancestors() -> None:
    servers, learner = flat(polybeast_env.Flags()), flat(polybeast_learner.Flags())
    assert {k: v for k, v in learner.items() if k not in OURS} == LEARNER
    access = {"token": None, "certificate": None, "key": None}
    assert servers == SERVERS | access
    assert flat(polybeast.Flags()) == learner | {k: SERVERS[k] for k in ("num_servers", "env")}


@pytest.mark.parametrize(("machine", "threads"), [(8, (3, 2)), (4, (2, 2)), (1, (1, 1))])
def test_flags_become_settings_of_impala(
    monkeypatch: pytest.MonkeyPatch, machine: int, threads: tuple[int, int]
) -> None:
    monkeypatch.setattr(polybeast_learner, "cores", lambda: machine)
    text = (
        "--num_actors 3 --batch_size 4 --max_learner_queue_size 7 --num_learner_threads 3 "
        "--use_lstm --entropy_cost 0.01 --savedir /x --write_profiler_trace --step_timeout 300 "
        "--pipes_basename a:7,b:9"
    )
    flags = parse(polybeast_learner.Flags(), "polybeast_learner", text.split())
    where = polybeast_learner.addresses(flags)
    assert where == ["a:7", "b:9", "a:8"]
    config = polybeast_learner.run_config(flags, where, "Pong", PICTURES)
    system, network = config.system, config.network
    assert (system.num_actors, system.num_buffers, system.inference) == (3, 10, "central")
    assert (system.torch_threads, system.inference_threads) == threads
    assert system.step_timeout == 300
    assert (network.network, network.use_lstm) == ("deep", True)
    assert (network.lstm_layers, network.lstm_size) == (1, 256)
    assert (config.env.env, config.env.env_servers) == ("Pong", tuple(where))
    assert (config.algorithm.batch_size, config.algorithm.entropy_cost) == (4, 0.01)
    output = config.output
    assert (output.savedir, output.write_profiler_trace, output.log_interval) == ("/x", True, 0.0)
    short = dataclasses.replace(flags, max_learner_queue_size=3)
    with pytest.raises(UsageError, match="max_learner_queue_size of at least the batch size 4"):
        polybeast_learner.run_config(short, where, "Pong", PICTURES)


@pytest.mark.parametrize("command", [polybeast, polybeast_env, polybeast_learner])
def test_unknown_flags_end_with_a_suggestion(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--pipe_basename", "unix:/tmp/x"])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert "--pipes_basename" in captured.out + captured.err


@contextlib.contextmanager
def served(address: str, name: str = "CartPole-v1", num_servers: int = 1) -> Iterator[None]:
    config = EnvConfig(name)
    with EnvServer(
        lambda num_envs, seed: envs.make(config, num_envs, seed),
        envs.spec(config),
        address,
        name=name,
        num_servers=num_servers,
    ):
        yield


def refused(capfd: pytest.CaptureFixture[str], command: Any, *flags: str, code: int = 2) -> str:
    assert command.main(list(flags)) == code
    text = capfd.readouterr().err
    assert "Traceback" not in text
    return text


def test_what_is_refused(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    at = ["--pipes_basename", f"unix:{tmp_path}/p"]
    runs = ["--savedir", str(tmp_path)]
    text = refused(capfd, polybeast, *at, *runs, "--num_servers", "2")
    assert "--num_actors 4, got --num_servers 2" in text
    text = refused(capfd, polybeast, *at, *runs, "--env_certificate", "x.pem")
    assert "no --env_certificate" in text
    text = refused(capfd, polybeast, *at, *runs, "--env_token", "none", "--env", "CartPole-v1")
    assert "--env_token (of a run), got none" in text  # its own servers want it, too
    assert "--pipes_basename" not in text
    assert "--num_actors of at least 1" in refused(capfd, polybeast, "--num_actors", "0")
    assert "--num_servers of at least 1" in refused(capfd, polybeast_env, "--num_servers", "0")
    assert "nearest" in refused(capfd, polybeast_env, *at, "--env", "Pongg")
    nowhere = ("--pipes_basename", "nowhere")
    for command in (polybeast, polybeast_env, polybeast_learner):
        assert "--pipes_basename unix:/path or host:port" in refused(capfd, command, *nowhere)
    text = refused(capfd, polybeast_learner, "--pipes_basename", "a:7,b:7,c:7", "--num_actors", "2")
    assert "each of the 3 machines of --pipes_basename, got --num_actors 2" in text
    with served(f"unix:{tmp_path}/p.0"):
        text = refused(capfd, polybeast_learner, *at, *runs)
        assert "at least 4 servers" in text
        assert "got 1; start polybeast_env with --num_servers 4" in text
        one = (*at, *runs, "--num_actors", "1")
        text = refused(capfd, polybeast_learner, *one, "--num_actions", "6")
        assert "expected --num_actions 2 as the servers', got 6" in text
        text = refused(capfd, polybeast_env, *at, "--env", "CartPole-v1", "--num_servers", "1")
        assert "p.0, and one is alive there" in text
        assert "--pipes_basename" in text
    with (
        served(f"unix:{tmp_path}/p.0", num_servers=2),
        served(f"unix:{tmp_path}/p.1", "Acrobot-v1", num_servers=2),
    ):
        text = refused(capfd, polybeast_learner, *at, *runs, "--num_actors", "2")
        assert "CartPole-v1" in text
        assert "Acrobot-v1" in text
    assert not list(tmp_path.iterdir())  # nothing was started, nothing is left


@pytest.mark.parametrize("lstm", [False, True])
def test_one_command_trains_and_then_plays(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], lstm: bool
) -> None:
    where = ["--savedir", str(tmp_path), "--xpid", "example"]
    servers = ["--pipes_basename", f"unix:{tmp_path}/p", "--env", "CartPole-v1"]
    flags = [*where, *servers, *TINY.split(), "--num_servers", "3", "--num_actions", "2"]
    more = ["--use_lstm"] if lstm else ["--write_profiler_trace", "--envs_per_actor", "2"]
    assert polybeast.main([*flags, *more, "--total_steps", "45"]) == 0
    run = tmp_path / "example"
    rows = (run / "logs.csv").read_text().splitlines()
    assert rows[0].startswith("# _tick,_time,step")
    assert rows[-1].split(",")[2] == "50"  # not overshot by more than a batch
    assert len(list(run.glob("chrome-*.trace.gz"))) == (not lstm)
    assert not list(tmp_path.glob("p.*"))  # neither sockets nor locks
    capfd.readouterr()
    assert polybeast_learner.main(["--mode", "test", *where]) == 0
    assert "Average returns over 10 episodes" in capfd.readouterr().out


@pytest.mark.slow
def test_mock_shows_nothing_for_ever(tmp_path: pathlib.Path) -> None:
    flags = ["--savedir", str(tmp_path), "--pipes_basename", f"unix:{tmp_path}/p"]
    flags += ["--env", "Mock", "--network", "shallow", "--total_steps", "10", "--num_servers", "1"]
    assert polybeast.main([*flags, *TINY.split(), "--num_actors", "1"]) == 0
    rows = (tmp_path / "latest" / "episodes.csv").read_text().splitlines()
    assert len(rows) <= 1  # no episode has ended
    assert envs.spec(EnvConfig("Mock")).observation.shape == (4, 84, 84)


# As a person types them.


def start(command: str, *flags: str) -> subprocess.Popen[str]:
    """Returns a command that runs; all it says comes out of one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", f"torchbeast.{command}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def ended(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Ends what a test that fails leaves running."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def soon(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def updates(run: pathlib.Path) -> int:
    log = run / "logs.csv"
    return len(log.read_text().splitlines()) - 1 if log.is_file() else 0


def test_servers_wait_for_a_learner_that_comes_back(tmp_path: pathlib.Path) -> None:
    at = ["--pipes_basename", f"127.0.0.1:{free_ports(3)}"]
    learner = [*at, "--savedir", str(tmp_path), "--xpid", "x", *ENDLESS]
    run = tmp_path / "x"
    first = start("polybeast_learner", *learner)  # before its servers
    servers = start("polybeast_env", *at, "--env", "CartPole-v1", "--num_servers", "3")
    with ended(first, servers):
        soon(lambda: updates(run) > 3, first)
        first.send_signal(signal.SIGINT)
        out, _ = first.communicate(timeout=PATIENCE)
        assert first.returncode == 130, out
        assert "continue with: the same command and --xpid x" in out
        assert "Traceback" not in out
        assert servers.poll() is None
        steps = 10 * updates(run) + 100
        second = start("polybeast_learner", *learner, "--total_steps", str(steps))
        with ended(second):
            out, _ = second.communicate(timeout=PATIENCE)
            assert second.returncode == 0, out
            assert "continues at step" in out
            assert f"{steps:,} steps" in out
            out, _ = servers.communicate(timeout=PATIENCE)  # of which one had no actor
            assert servers.returncode == 0, out
            assert out.count("CartPole-v1 at 127.0.0.1:") == 3


@pytest.mark.slow
def test_a_killed_server_is_replaced_and_ctrl_c_ends_all(tmp_path: pathlib.Path) -> None:
    flags = ["--savedir", str(tmp_path), "--xpid", "x", "--pipes_basename", f"unix:{tmp_path}/p"]
    run = tmp_path / "x"
    both = start("polybeast", *flags, *ENDLESS, "--num_servers", "2", "--env", "CartPole-v1")
    with ended(both):
        soon(lambda: updates(run) > 3, both)
        [victim] = listening(both, f"{tmp_path}/p.0")
        victim.kill()
        log = run / "out.log"
        soon(lambda: "starting another server" in log.read_text(), both)
        soon(lambda: listening(both, f"{tmp_path}/p.0"), both)
        before = updates(run)
        soon(lambda: updates(run) > before + 20, both)
        family = psutil.Process(both.pid).children(recursive=True)
        both.send_signal(signal.SIGINT)
        out, _ = both.communicate(timeout=PATIENCE)
        assert both.returncode == 130, out
        for text in ("p.0: killed by SIGKILL; starting another server", "connecting again"):
            assert text in log.read_text()
            [line] = [line for line in out.splitlines() if text in line]
            assert line.startswith("warning: ")  # above the display, not through it
        assert "Traceback" not in out
        assert not psutil.wait_procs(family, timeout=10)[1]
        assert not list(tmp_path.glob("p.*"))


def listening(parent: subprocess.Popen[str], path: str) -> list[psutil.Process]:
    """Returns the descendant that listens at a unix socket, if there is one."""
    found = []
    for process in psutil.Process(parent.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(connection.laddr == path for connection in process.net_connections("unix")):
                found.append(process)
    return found


@pytest.mark.slow
def test_nothing_outlives_a_killed_parent(tmp_path: pathlib.Path) -> None:
    flags = ["--savedir", str(tmp_path), "--xpid", "x", "--pipes_basename", f"unix:{tmp_path}/p"]
    both = start("polybeast", *flags, *ENDLESS, "--num_servers", "2", "--env", "CartPole-v1")
    with ended(both):
        soon(lambda: updates(tmp_path / "x") > 0, both)
        family = workers(both.pid)
        assert len(family) >= 4  # servers and actors
        both.kill()
        assert not psutil.wait_procs(family, timeout=10)[1]


@pytest.mark.slow
def test_an_environment_that_raises_ends_the_run_with_its_reason(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--savedir", str(tmp_path), "--xpid", "x", "--pipes_basename", f"unix:{tmp_path}/p"]
    flags += ["--env", f"{PROBES}:broken", "--num_servers", "1", *ENDLESS, "--num_actors", "1"]
    assert polybeast.main(flags) == 3
    captured = capfd.readouterr()
    assert "broken in step" in captured.err
    assert "broken in step" in (tmp_path / "x" / "out.log").read_text()
    assert not list(tmp_path.glob("p.*"))

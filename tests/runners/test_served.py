"""What a run refuses of environment servers before anything starts."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from torchbeast import cli, envs
from torchbeast.envs import EnvConfig
from torchbeast.runners.checks import ConfigError, checked
from torchbeast.runners.config import RunConfig

pytest.importorskip("grpc")

from torchbeast.envs.remote import EnvServer

pytestmark = pytest.mark.timeout(60)


@contextlib.contextmanager
def served(address: str, env: str = "CartPole-v1", **options: Any) -> Iterator[str]:
    config = EnvConfig(env)
    spec = envs.spec(config)
    options = {"name": env} | options
    with EnvServer(lambda n, seed: envs.make(config, n, seed), spec, address, **options):
        yield address


def run(env: str, *servers: str, eval_episodes: int = 10, **system: Any) -> RunConfig:
    base = RunConfig(env=EnvConfig(env, env_servers=servers))
    output = dataclasses.replace(base.output, eval_episodes=eval_episodes)
    system = {"num_actors": 2} | system
    system = {"system": dataclasses.replace(base.system, **system)}
    return dataclasses.replace(base, output=output, **system)


def test_all_serve_what_env_says(tmp_path: pathlib.Path) -> None:
    with (
        served(f"unix:{tmp_path}/a") as one,
        served(f"unix:{tmp_path}/b") as same,
        served(f"unix:{tmp_path}/c", "Acrobot-v1") as other,
    ):
        checked(run("CartPole-v1", one, same))
        with pytest.raises(
            ConfigError, match=r"expected --env Acrobot-v1 as served at .* got Cart"
        ):
            checked(run("CartPole-v1", other))
        with pytest.raises(ConfigError, match=r"got CartPole-v1 at .* and Acrobot-v1 at unix:"):
            checked(run("CartPole-v1", one, other))


def test_a_file_may_lie_elsewhere_on_another_machine(tmp_path: pathlib.Path) -> None:
    with (
        served(f"unix:{tmp_path}/a", name="/home/a/game.py:make") as one,
        served(f"unix:{tmp_path}/b", name="/data/b/game.py:make") as two,
        served(f"unix:{tmp_path}/c", name="/home/a/game.py:other") as other,
        served(f"unix:{tmp_path}/d", name="") as silent,
    ):
        checked(run("/mine/game.py:make", one, two))
        checked(run("CartPole-v1", silent))
        for servers in ((one, other), (other, two)):
            with pytest.raises(ConfigError, match=r"game.py:make at .*|game.py:other at .*"):
                checked(run("/mine/game.py:make", *servers))


def test_places_for_actors_and_for_evaluation(tmp_path: pathlib.Path) -> None:
    with served(f"unix:{tmp_path}/a", max_streams=2) as address:
        with pytest.raises(ConfigError, match=r"expected 3 places at .* got --max_streams 2"):
            checked(run("CartPole-v1", address))
        checked(run("CartPole-v1", address, eval_episodes=0))
        grouped = {"num_actors": 1, "envs_per_actor": 2, "env_groups": 2}
        with pytest.raises(ConfigError, match="expected 3 places"):
            checked(run("CartPole-v1", address, **grouped))
        with served(f"unix:{tmp_path}/b", max_streams=1) as other:
            checked(run("CartPole-v1", address, other))


def train(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    code = cli.main(["train", "impala", "--env", "CartPole-v1", *flags])
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return code, text


def test_what_is_refused_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = ["--savedir", str(tmp_path), "--env_servers", f"unix:{tmp_path}/nowhere"]
    for flag in ("--env_token", "--env_certificate"):
        code, text = train(capsys, *runs, flag, str(tmp_path / "none"))
        assert (code, flag in text, str(tmp_path / "none") in text) == (2, True, True)
    from torchbeast.envs import remote

    ask = remote.ask
    monkeypatch.setattr(remote, "ask", lambda *a, **k: ask(*a, **k, connect_timeout=0.1))
    code, text = train(capsys, *runs)
    assert (code, f"unix:{tmp_path}/nowhere" in text) == (3, True)

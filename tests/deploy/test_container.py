"""Dockerfile and compose.yaml without an engine: what they name exists, and their commands run."""

from __future__ import annotations

import pathlib
import re
import secrets
import shlex
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml
from processes import free_ports

from torchbeast import cli, polybeast_env, polybeast_learner
from torchbeast.commands.flags import parse
from torchbeast.tools.run_directory import read_meta

ROOT = pathlib.Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
LIMIT = 240.0


def instructions() -> list[tuple[str, str]]:
    """Returns name and text of each instruction of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)]


def texts(name: str) -> list[str]:
    return [text for each, text in instructions() if each == name]


def flags_of(service: str) -> Any:
    module = polybeast_env if service == "environments" else polybeast_learner
    assert SERVICES[service]["entrypoint"] == ["python", "-m", module.__name__]
    return parse(module.Flags(), service, SERVICES[service]["command"])


def test_what_is_copied_exists_and_is_let_through() -> None:
    let_through = [
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()
    ]
    for text in texts("COPY"):
        *sources, _ = text.split()
        for source in sources:
            assert (ROOT / source).exists()
            assert source in let_through


def test_what_is_installed_is_ours_and_pinned() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (chosen,) = [text.partition("=")[2] for text in texts("ARG") if text.startswith("EXTRAS=")]
    assert set(chosen.split(",")) <= set(extras["optional-dependencies"])
    for text in texts("RUN"):
        for command in re.findall(r"pip install [^;&]+", text):
            assert "--no-cache-dir" in command
            assert "constraints.txt" in command
    assert "://" not in (ROOT / "Dockerfile").read_text() + (ROOT / "compose.yaml").read_text()


def test_the_image_runs_as_a_user_who_owns_the_volume() -> None:
    stages = [text.split()[0] for text in texts("FROM")]
    assert stages == ["python:3.11-slim", "torchbeast", "torchbeast"]
    assert texts("USER") == ["beast", "root", "beast"]
    (volume,) = texts("VOLUME")
    assert any(f"-o beast -g beast {volume}" in text for text in texts("RUN"))
    assert f"runs:{volume}" in SERVICES["learner"]["volumes"]
    assert pathlib.Path(flags_of("learner").savedir).is_relative_to(volume)
    assert cli.main(yaml.safe_load(texts("CMD")[0])) == 0


def test_the_services_fit_together() -> None:
    served, learner = flags_of("environments"), flags_of("learner")
    assert served.served.num_servers >= learner.num_actors
    host, _, port = learner.pipes_basename.partition(":")
    assert host in SERVICES
    assert served.pipes_basename == f"0.0.0.0:{port}"
    assert served.token == learner.env_token
    secret = pathlib.Path(served.token)
    assert secret.parent == pathlib.Path("/run/secrets")
    for service in SERVICES.values():
        assert secret.name in service["secrets"]
        assert service["restart"] == "on-failure:5"  # training has an end, and some faults stay
        assert service["init"]  # signals arrive, and what dies is buried
        assert service["image"] == "torchbeast"
    assert sum("build" in service for service in SERVICES.values()) == 1  # not the same one twice
    assert set(COMPOSE["secrets"]) == {secret.name}
    assert SERVICES["learner"]["depends_on"][host]["condition"] == "service_healthy"
    last = int(port) + served.served.num_servers - 1
    assert f"('127.0.0.1', {last})" in SERVICES[host]["healthcheck"]["test"][-1]


def command_here(service: str, **changes: str) -> list[str]:
    """Returns the command of a service with some of its flags changed for this machine."""
    given = dict(word.removeprefix("--").split("=", 1) for word in SERVICES[service]["command"])
    assert set(changes) - set(given) <= MORE
    words = [f"--{name}={value}" for name, value in (given | changes).items()]
    return [sys.executable, *SERVICES[service]["entrypoint"][1:], *words]


MORE = {"batch_size", "unroll_length", "log_interval"}  # of a run that is short


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
def test_the_services_train_and_end(tmp_path: pathlib.Path) -> None:
    port = free_ports()
    token = tmp_path / "token"
    token.write_text(secrets.token_hex())
    at = f"127.0.0.1:{port}"
    served = command_here(
        "environments", env="CartPole-v1", num_servers="1", pipes_basename=at, token=str(token)
    )
    learned = command_here(
        "learner",
        pipes_basename=at,
        num_actors="1",
        env_token=str(token),
        savedir=str(tmp_path),
        total_steps="300",
        batch_size="1",
        unroll_length="10",
    )
    health = SERVICES["environments"]["healthcheck"]["test"][1:]
    health = [sys.executable, *health[1:-1], re.sub(r", 7\d+\)", f", {port})", health[-1])]
    assert subprocess.run(health, capture_output=True).returncode
    with subprocess.Popen(served, stdout=subprocess.PIPE, text=True) as environments:
        try:
            assert environments.stdout is not None
            assert at in environments.stdout.readline()
            assert not subprocess.run(health).returncode
            learner = subprocess.run(learned, capture_output=True, text=True, timeout=LIMIT / 2)
            assert learner.returncode == 0, learner.stdout + learner.stderr
            assert environments.wait(30) == 0  # it was told that training is over
        finally:
            environments.kill()
    assert read_meta(tmp_path / flags_of("learner").xpid)["successful"]


def test_the_dockerfile_is_tried_as_it_is_written() -> None:
    script = (ROOT / "deploy" / "try_container.sh").read_text()
    for name in {name for name, _ in instructions()} & {"ARG", "COPY", "RUN"}:
        assert name in script
    subprocess.run(["bash", "-n", ROOT / "deploy" / "try_container.sh"], check=True)
    assert shlex.split(texts("ENTRYPOINT")[0].strip("[]")) == ["torchbeast"]

"""Which environments an actor steps: shares of the environment servers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from torchbeast.envs import EnvConfig
from torchbeast.runners import jobs
from torchbeast.runners.config import RunConfig


def config(servers: str, **system: Any) -> RunConfig:
    base = RunConfig(env=EnvConfig("CartPole-v1", env_servers=tuple(servers)))
    return dataclasses.replace(base, system=dataclasses.replace(base.system, **system))


@pytest.mark.parametrize(
    ("servers", "actors", "shares"),
    [
        ("abcd", 4, "a b c d"),
        ("abcd", 2, "ac bd"),
        ("ab", 4, "a b a b"),
        ("ab", 0, "ab"),  # a learner that acts itself has all
    ],
)
def test_actors_share_servers(servers: str, actors: int, shares: str) -> None:
    run = config(servers, num_actors=actors)
    found = ["".join(jobs.servers_of(run, actor)) for actor in range(actors or 1)]
    assert found == shares.split()


def test_learners_that_act_share_servers_too() -> None:
    assert jobs.servers_of(config("abcd", num_learners=2), 1) == ("b", "d")
    assert jobs.servers_of(config("", num_actors=3), 1) == ()


def test_servers_that_cannot_be_shared_equally() -> None:
    with pytest.raises(ValueError, match=r"as many --env_servers as --num_actors 2, .* got 3"):
        jobs.servers_of(config("abc", num_actors=2), 0)


def test_an_actor_has_environments_on_its_servers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def make(env: EnvConfig, num_envs: int, seed: int, **options: Any) -> Any:
        asked.append((env.env_servers, num_envs, options))
        raise ConnectionError

    monkeypatch.setattr(jobs.envs, "make", make)
    run = config("abcd", num_actors=4, step_timeout=300.0)
    with pytest.raises(ConnectionError):
        jobs.make_envs(run, 1, 8, seed=1, actor=2)
    assert asked == [(("c",), 8, {"num_threads": 1, "step_timeout": 300.0})]

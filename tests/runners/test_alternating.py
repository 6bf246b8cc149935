"""Runs whose environments are in groups that take turns: as good as any other run."""

from __future__ import annotations

import csv
import os
import pathlib
import signal
from typing import Any

import pytest
import torch
from runners.test_run import BATCH, PROBES, B, digest, make, train

from torchbeast import envs
from torchbeast.algorithms import impala
from torchbeast.data import Rollout
from torchbeast.runners import build, jobs
from torchbeast.runners.checks import ConfigError
from torchbeast.tools import checkpoint

LSTM = {"use_lstm": True}


def in_two(**system: Any) -> dict[str, Any]:
    return {"env_groups": 2} | system


@pytest.mark.parametrize("how", ["here", "env_workers", "actors", "learners"])
def test_counting_through_every_runner(
    tmp_path: pathlib.Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    update = impala.Impala.update

    def spy(self: impala.Impala, batch: Rollout, steps: int) -> Any:
        episode, step = batch.obs.unbind(-1)
        end = step == 3 + episode % 4
        assert (batch.first == (step == 0)).all()
        assert (step[1:] == torch.where(end, 0.0, step + 1)[:-1]).all()
        assert (episode[1:] == (episode + end)[:-1]).all()
        action = torch.where(batch.first[1:], 0, batch.action[:-1])
        assert (batch.prev_action[1:] == action).all()
        assert (batch.action[-1] == 0).all()
        began = (step[0] == 0) & (episode[0] == 0)
        assert ((batch.state[0] == 0).all(0).all(-1) == began).all()
        seen.extend(batch.version.tolist())
        return update(self, batch, steps)

    monkeypatch.setattr(impala.Impala, "update", spy)
    system = {
        "here": in_two(num_envs=B),
        "env_workers": in_two(num_envs=4),
        "actors": in_two(num_actors=2, envs_per_actor=2),
        "learners": in_two(num_learners=2, num_envs=4),
    }[how]
    env = {"env": f"{PROBES}:counting", "env_workers": int(how == "env_workers")}
    config = make(tmp_path, 12, env=env, system=system, network=LSTM)
    assert train(config).steps == 12 * BATCH
    assert len(seen) == 12 * B // config.system.num_learners
    if how == "here":
        assert seen == [k // B for k in range(12 * B)]
    with (tmp_path / "run" / "episodes.csv").open() as file:
        games = list(csv.DictReader(file))
    assert len(games) >= 10
    for game in games:
        length = int(game["length"])
        assert float(game["return"]) == length * (length + 1) / 2


@pytest.mark.parametrize("use_lstm", [False, True])
def test_a_resumed_run_equals_one_that_never_stopped(
    tmp_path: pathlib.Path, use_lstm: bool
) -> None:
    network = {"use_lstm": use_lstm}
    whole = make(tmp_path / "whole", 12, system=in_two(num_envs=4), network=network)
    parts = make(tmp_path / "parts", 12, system=in_two(num_envs=4), network=network)
    assert train(whole).exit_code == 0

    def stop(run: Any) -> None:
        if run.learner.version == 6:
            run.stop.request()

    assert train(parts, stop).steps == 6 * BATCH
    assert train(parts).steps == 12 * BATCH
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    log = (tmp_path / "parts" / "run" / "out.log").read_text()
    assert "continues at step 60, exactly where it stopped" in log


def test_here_in_workers_and_in_an_actor_it_is_the_same(tmp_path: pathlib.Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "here": {"system": in_two(num_envs=2), "env": {}},
        "workers": {"system": in_two(num_envs=2), "env": {"env_workers": 1}},
        "actor": {"system": in_two(num_actors=1, envs_per_actor=2), "env": {}},
    }
    for name, groups in runs.items():
        groups["env"]["env"] = "Acrobot-v1"
        train(make(tmp_path / name, algorithm={"max_lag": 0}, network=LSTM, **groups))
    one, *others = (checkpoint.load(tmp_path / name / "run").model for name in runs)
    for other in others:
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_workers_of_all_groups_are_replaced_and_counted(tmp_path: pathlib.Path) -> None:
    env = {"env": f"{PROBES}:counting", "env_workers": 1}
    config = make(tmp_path, env=env, system=in_two(num_envs=2))
    _, source, learner = build.build(config, 0)
    try:
        source.fill()
        assert source.metrics() == {}
        for restarts, group in enumerate(source.env.groups, start=1):  # type: ignore[attr-defined]
            os.kill(group._crews[0].worker.pid, signal.SIGKILL)
            learner.step()
            source.fill()
            assert source.metrics() == {"env_restarts": restarts}
        assert {e.env for e in source.episodes()} == {0, 1}
    finally:
        source.close()


def test_groups_that_do_not_fit_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"--env_groups of 1 or more, got 0"):
        make(tmp_path, system={"num_envs": 4, "env_groups": 0})
    with pytest.raises(ConfigError, match=r"--env_groups to divide the 4 .* --num_envs"):
        make(tmp_path, system={"num_envs": 4, "env_groups": 3})
    with pytest.raises(ConfigError, match=r"--env_groups to divide the 1 .* --envs_per_actor"):
        make(tmp_path, system=in_two(num_actors=2))
    with pytest.raises(ConfigError, match=r"--env_groups to divide the 1 environments"):
        make(tmp_path, system=in_two(num_learners=2, num_envs=2))
    with pytest.raises(ConfigError, match=r"divide the 2 environments of each of the 2 groups"):
        make(tmp_path, system=in_two(num_envs=4), env={"env_workers": 4})
    make(tmp_path, system=in_two(num_envs=4), env={"env_workers": 2})


def test_environments_have_numbers_of_their_own(tmp_path: pathlib.Path) -> None:
    config = make(tmp_path, system=in_two(num_envs=4))

    def starts(config: Any) -> Any:
        env = jobs.make_envs(config, 1, 4, config.system.seed, 0)
        return env.reset().obs

    obs = starts(config)
    assert len({tuple(x) for x in obs.tolist()}) == 4
    assert (starts(config) == obs).all()
    alone = envs.make(config.env, 4, config.system.seed).reset().obs
    assert (starts(make(tmp_path, system={"num_envs": 4})) == alone).all()

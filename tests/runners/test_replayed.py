"""Whole runs of algorithms with a replay: in every way of running, paced, resumed, refused."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from typing import Any

import pytest
import torch
from runners.test_run import PROBES, digest, make, rows, train

from torchbeast import nets
from torchbeast.algorithms import (
    apex,
    c51,
    d4pg,
    ddpg,
    dqn,
    iqn,
    pqn,
    qrdqn,
    r2d2,
    rainbow,
    sac,
    sac_discrete,
    td3,
)
from torchbeast.data import Rollout
from torchbeast.data.replay import Replay
from torchbeast.runners.checks import ConfigError
from torchbeast.runners.config import RunConfig
from torchbeast.runners.run import Run
from torchbeast.tools import checkpoint

SMALL: dict[str, Any] = dict(
    unroll_length=4,
    batch_size=8,
    replay_size=400,
    min_replay_size=48,
    target_interval=50,
    learning_rate=0.01,
)
REPLAYED: dict[str, Any] = {
    "dqn": dqn.Config(**SMALL, replay_ratio=2.0, n_step=2, prioritized=True, double=True),
    "c51": c51.Config(**SMALL, replay_ratio=2.0),
    "qrdqn": qrdqn.Config(**SMALL, replay_ratio=2.0),
    "iqn": iqn.Config(**SMALL, replay_ratio=2.0),
    "rainbow": rainbow.Config(**SMALL, replay_ratio=2.0),
    "apex": apex.Config(**SMALL, replay_ratio=2.0),
    "r2d2": r2d2.Config(**SMALL, replay_ratio=4.0, burn_in=2, sequence_length=6, n_step=2),
}
# Of a policy and critics; the first of them act on numbers.
TRACKING: dict[str, Any] = {k: v for k, v in SMALL.items() if k != "target_interval"}
CONTINUOUS: dict[str, Any] = {
    "ddpg": ddpg.Config(**TRACKING, replay_ratio=2.0),
    "d4pg": d4pg.Config(**TRACKING, replay_ratio=2.0, n_step=2),
    "td3": td3.Config(**TRACKING, replay_ratio=2.0),
    "sac": sac.Config(**TRACKING, replay_ratio=2.0),
}
SAC_DISCRETE = sac_discrete.Config(**TRACKING, replay_ratio=2.0)
REPLAYED |= CONTINUOUS | {"sac_discrete": SAC_DISCRETE}
STEPS = 240


def config(path: pathlib.Path, name: str, steps: int = STEPS, **groups: Any) -> RunConfig:
    """Returns a small checked config of an algorithm with a replay."""
    changes = groups.pop("learned", {})
    learned = dataclasses.replace(REPLAYED[name], **changes)
    system = {"total_steps": steps, "num_envs": 2, **groups.pop("system", {})}
    if "num_actors" in system:
        system["num_envs"] = 0
    if name in CONTINUOUS:
        groups = {"env": {"env": "Pendulum-v1"}, **groups}
    return make(path, learned=learned, system=system, **groups)


def weights(path: pathlib.Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path / "run").model


# IQN, noisy networks, SAC and TD3 draw random numbers in updates too, which acting elsewhere does
# not see.
@pytest.mark.parametrize(
    "name",
    [
        *("dqn", "r2d2", "ddpg", "sac_discrete"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("c51", "qrdqn", "apex", "d4pg")),
    ],
)
def test_serial_equals_async_by_turns(tmp_path: pathlib.Path, name: str) -> None:
    for shape, system in [
        ("serial", {}),
        ("async", {"num_actors": 1, "envs_per_actor": 2}),
    ]:
        run = config(tmp_path / shape, name, system=system, learned={"take_turns": True})
        assert train(run).steps == STEPS
    one, other = weights(tmp_path / "serial"), weights(tmp_path / "async")
    assert all(torch.equal(value, other[key]) for key, value in one.items())


TAKING_TURNS = {"num_actors": 2, "envs_per_actor": 2, "env_groups": 2}


@pytest.mark.parametrize(
    ("name", "system"),
    [
        *((name, TAKING_TURNS) for name in ("dqn", "r2d2", "sac")),
        *(
            pytest.param(name, TAKING_TURNS, marks=pytest.mark.slow)
            for name in ("c51", "qrdqn", "iqn", "rainbow", "apex", "d4pg")
        ),
        ("r2d2", {"num_learners": 2}),
        ("sac", {"num_actors": 1, "envs_per_actor": 2}),
    ],
    ids=str,
)
def test_the_replay_ratio_is_kept_in_every_way_of_running(
    tmp_path: pathlib.Path, name: str, system: dict[str, Any]
) -> None:
    steps = 600
    counted: dict[str, int] = {}

    def after(run: Run) -> None:
        counted.update(updates=run.learner.version, steps=run.learner.steps)

    run = config(tmp_path, name, steps, system=system)
    assert train(run, after).exit_code == 0
    learned = run.algorithm
    transitions = learned.batch_size * (learned.sequence_length if name == "r2d2" else 1)
    ratio = counted["updates"] * transitions / (counted["steps"] - learned.min_replay_size)
    # The last rollouts may not have been learned from yet.
    assert ratio == pytest.approx(learned.replay_ratio, rel=0.12)


def test_steps_count_while_the_replay_fills_up(tmp_path: pathlib.Path) -> None:
    first: list[int] = []
    update = dqn.DQN.update

    class Spied(dqn.DQN):
        def update(self, batch: Rollout, steps: int) -> Any:
            first.append(steps)
            return update(self, batch, steps)

    dqn_update, dqn.DQN.update = dqn.DQN.update, Spied.update  # type: ignore[method-assign]
    try:
        train(config(tmp_path, "dqn"))
    finally:
        dqn.DQN.update = dqn_update  # type: ignore[method-assign]
    assert first[0] == SMALL["min_replay_size"]
    assert first == sorted(first)


def test_a_replay_learns_from_every_kind_of_environment(tmp_path: pathlib.Path) -> None:
    seen: list[torch.Tensor] = []
    update = dqn.DQN.update

    def spy(self: dqn.DQN, batch: Rollout, steps: int) -> Any:
        (episode, step), (later_episode, later) = (row.unbind(-1) for row in batch.obs)
        assert torch.equal(episode, later_episode)
        assert ((later - step >= 1) & (later - step <= 2)).all()
        ends = later == 3 + episode % 4
        assert torch.equal(batch.discount[1] == 0, ends & (episode % 2 == 0))
        one = (later - step) == 1
        assert torch.equal(one | (later - step == 2), torch.ones_like(one))
        expected = torch.where(one, later, later - 1 + 0.9 * later)
        torch.testing.assert_close(batch.reward[1], expected)
        seen.append(step)
        return update(self, batch, steps)

    env = {"env": f"{PROBES}:counting"}
    original, dqn.DQN.update = dqn.DQN.update, spy  # type: ignore[method-assign, assignment]
    try:
        train(config(tmp_path, "dqn", env=env, learned={"discounting": 0.9}))
    finally:
        dqn.DQN.update = original  # type: ignore[method-assign]
    assert len(torch.cat(seen).unique()) == 6


@pytest.mark.parametrize("name", ["dqn", "rainbow", "r2d2", "sac", "td3"])
def test_a_resumed_run_with_its_replay_equals_one_that_never_stopped(
    tmp_path: pathlib.Path, name: str
) -> None:
    output = {"checkpoint_replay": True}

    def stop_at(step: int) -> Any:
        def after(run: Run) -> None:
            if run.learner.steps >= step and not run.stop.requested:
                run.stop.request()

        return after

    assert train(config(tmp_path / "whole", name, output=output)).exit_code == 0
    parts = config(tmp_path / "parts", name, output=output)
    assert train(parts, stop_at(100)).exit_code == 143
    assert train(parts, stop_at(170)).exit_code == 143
    assert train(parts).exit_code == 0
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    steps = [int(row["step"]) for row in rows(tmp_path / "parts")]
    assert steps == sorted(steps)
    # One replay is kept, that of the newest checkpoint.
    assert len(list((tmp_path / "parts" / "run").glob("replay-*"))) == 1


def test_without_its_replay_a_resumed_run_fills_it_again(tmp_path: pathlib.Path) -> None:
    run = config(tmp_path, "dqn")

    def stop(run: Run) -> None:
        if run.learner.steps >= 100:
            run.stop.request()

    assert train(run, stop).exit_code == 143
    sizes: list[int] = []

    def after(run: Run) -> None:
        assert isinstance(run.source.buffer, Replay)
        sizes.append(run.source.buffer.steps)

    assert train(run, after).steps == STEPS
    assert sizes[0] == SMALL["min_replay_size"]
    log = (tmp_path / "run" / "out.log").read_text()
    assert "with new episodes in every environment and an empty replay" in log


def test_a_damaged_replay_is_refused(tmp_path: pathlib.Path) -> None:
    run = config(tmp_path, "dqn", output={"checkpoint_replay": True})
    train(run)
    (folder,) = (tmp_path / "run").glob("replay-*")
    largest = max(folder.glob("*.npy"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.write_bytes(content)
    longer = config(tmp_path, "dqn", 2 * STEPS, output={"checkpoint_replay": True})
    with pytest.raises(checkpoint.CheckpointError, match="remove it to begin with an empty replay"):
        train(longer)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"system": {"num_actors": 2, "envs_per_actor": 1}}, "lanes"),
        ({"system": {"num_envs": 4}}, "width"),
        ({"learned": {"n_step": 1}}, "window"),
        ({"learned": {"prioritized": False}}, "selection"),
        ({"learned": {"unroll_length": 2}}, "unroll_length"),
    ],
    ids=str,
)
def test_a_replay_of_another_shape_is_refused(
    tmp_path: pathlib.Path, changes: dict[str, Any], text: str
) -> None:
    output = {"checkpoint_replay": True}
    train(config(tmp_path, "dqn", output=output))
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(checkpoint.CheckpointError, match=f"expected a saved replay with {text}"):
        train(config(tmp_path, "dqn", 2 * STEPS, output=output, **changes))
    assert (tmp_path / "run" / "config.yaml").read_text() == before  # so that it can go on


def test_a_new_replay_ratio_holds_from_the_resume_on(tmp_path: pathlib.Path) -> None:
    output = {"checkpoint_replay": True}
    train(config(tmp_path, "dqn", output=output))
    updates = checkpoint.load(tmp_path / "run").state["version"]
    more = config(tmp_path, "dqn", 2 * STEPS, output=output, learned={"replay_ratio": 8.0})
    train(more)
    made = checkpoint.load(tmp_path / "run").state["version"] - updates
    # A batch of 8 for each step; four times as many as before, and no more than that.
    assert made == pytest.approx(STEPS, abs=16)


def test_learners_with_actors_stay_equal(tmp_path: pathlib.Path) -> None:
    """Their replays differ in size; their schedules and target copies must not."""
    system = {"num_learners": 2, "num_actors": 6, "envs_per_actor": 2}
    learned = {"learning_rate_schedule": "linear"}
    run = config(tmp_path, "dqn", 900, system=system, learned=learned)
    watched = f"{pathlib.Path(__file__).with_name('equal_learners.py')}:Watched"
    assert train(dataclasses.replace(run, algo=watched)).exit_code == 0


def test_learners_with_half_the_batch_equal_one_with_all(tmp_path: pathlib.Path) -> None:
    run = config(tmp_path, "ddpg", 120, system={"num_learners": 2, "num_envs": 4})
    watched = f"{pathlib.Path(__file__).with_name('equal_learners.py')}:WatchedDDPG"
    assert train(dataclasses.replace(run, algo=watched)).exit_code == 0


def test_exploration_begins_where_it_is_told(tmp_path: pathlib.Path) -> None:
    shares: list[float] = []
    act = dqn.DQN.act

    def spy(self: dqn.DQN, model: Any, rows: Rollout, state: Any, explore: Any) -> Any:
        if explore is not None:
            shares.append(float(nets.unwrapped(model).epsilon))
        return act(self, model, rows, state, explore)

    dqn.DQN.act = spy  # type: ignore[method-assign, assignment]
    try:
        learned = {"exploration_start": 0.5, "exploration_end": 0.25, "exploration_fraction": 0.5}
        train(config(tmp_path, "dqn", learned=learned))
    finally:
        dqn.DQN.act = act  # type: ignore[method-assign]
    assert shares[0] == 0.5
    assert shares[-1] == 0.25
    assert all(later <= earlier for earlier, later in itertools.pairwise(shares))


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ({"learned": {"min_replay_size": 500}}, "--min_replay_size of at most --replay_size 400"),
        ({"learned": {"min_replay_size": 240}}, "--total_steps above --min_replay_size 240"),
        ({"learned": {"replay_size": 60}, "system": {"num_envs": 50}}, "--replay_size of at least"),
        ({"learned": {"replay_ratio": 0.0}}, "--replay_ratio"),
        ({"learned": {"replay_size": 10**13}}, "GB for the replay"),
        ({"system": {"replay_dir": "/nowhere/at/all"}}, "a folder for --replay_dir"),
        ({"learned": {"n_step": 0}}, "--n_step"),
        ({"network": {"use_lstm": True}}, "no --use_lstm"),
        ({"network": {"normalize_rewards": True}}, "--normalize_rewards"),
        ({"env": {"env": "Pendulum-v1"}}, "Discrete"),
        (
            {"system": {"num_learners": 2}, "output": {"checkpoint_replay": True}},
            "--checkpoint_replay",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told_before_the_start(
    tmp_path: pathlib.Path, groups: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        config(tmp_path, "dqn", **groups)


def test_a_replay_in_a_file(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    train(config(tmp_path / "file", "dqn", system={"replay_dir": str(folder)}))
    train(config(tmp_path / "memory", "dqn"))
    assert not list(folder.iterdir())
    assert digest(tmp_path / "file") == digest(tmp_path / "memory")


def test_pqn_needs_no_replay_and_runs_in_processes(tmp_path: pathlib.Path) -> None:
    learned = pqn.Config(unroll_length=5, batch_size=2, num_minibatches=2)
    for shape, system in [
        ("serial", {"num_envs": 2}),
        ("async", {"num_actors": 1, "envs_per_actor": 2}),
    ]:
        train(make(tmp_path / shape, learned=learned, system=system))
    one, other = weights(tmp_path / "serial"), weights(tmp_path / "async")
    assert all(torch.equal(value, other[key]) for key, value in one.items())

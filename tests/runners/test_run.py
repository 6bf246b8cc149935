"""Whole runs in this process: repeatable, resumable bit for bit, and stopped by bad gradients."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchbeast.algorithms import impala
from torchbeast.algorithms.base import Diverged
from torchbeast.data import Rollout
from torchbeast.envs import EnvConfig, EnvError
from torchbeast.nets import NetworkConfig
from torchbeast.runners import run as running
from torchbeast.runners.build import build
from torchbeast.runners.checks import checked
from torchbeast.runners.config import OutputConfig, RunConfig, SystemConfig
from torchbeast.runners.evaluation import Evaluation
from torchbeast.runners.run import Result, Run
from torchbeast.runners.source import Interrupted
from torchbeast.tools import checkpoint
from torchbeast.tools.run_directory import RunDirectory

PROBES = str(pathlib.Path(__file__).parents[1] / "probes.py")
T, B = 5, 2
BATCH = T * B


def make(
    path: pathlib.Path, updates: int = 10, learned: Any = None, **groups: dict[str, Any]
) -> RunConfig:
    """Returns a small checked config; ``learned`` is the algorithm's, by default IMPALA's."""
    config = RunConfig(
        env=EnvConfig("CartPole-v1", env_backend="gymnasium"),
        algorithm=learned or impala.Config(unroll_length=T, batch_size=B, learning_rate=0.01),
        network=NetworkConfig(hidden_sizes=(8,)),
        system=SystemConfig(total_steps=updates * BATCH, torch_threads=1),
        output=OutputConfig(
            xpid="run",
            savedir=str(path),
            log_interval=0.0,
            eval_episodes=0,
            disable_tensorboard=True,
        ),
    )
    for group, settings in groups.items():
        config = dataclasses.replace(
            config, **{group: dataclasses.replace(getattr(config, group), **settings)}
        )
    return checked(config)


def train(config: RunConfig, after: Callable[[Run], None] | None = None) -> Result:
    """Returns the result of a run; ``after`` is called after each update."""

    class Hooked(Run):
        def _after_update(self) -> None:
            super()._after_update()
            if after is not None:
                after(self)

    with RunDirectory(config.output.savedir, config.output.xpid) as directory:
        running.Run, before = Hooked, running.Run  # type: ignore[misc]
        try:
            return running.train(config, directory)
        finally:
            running.Run = before  # type: ignore[misc]


def digest(path: pathlib.Path) -> str:
    """Returns the SHA-256 of weights, optimizer and random numbers of a run."""
    saved = checkpoint.load(path / "run")
    folder = path / "run" / "checkpoints" / f"ckpt-{saved.step:012d}"
    files = [folder / name for name in ("model.safetensors", "optim.pt", "rng.pt")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the log of a run, and checks its header."""
    lines = (path / "run" / "logs.csv").read_text().splitlines()
    assert sum(line.startswith("#") for line in lines) == 1
    return list(csv.DictReader([lines[0].removeprefix("# "), *lines[1:]]))


def test_one_seed_gives_one_result(tmp_path: pathlib.Path) -> None:
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        train(make(tmp_path / name, system={"seed": seed}))
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    games = [(tmp_path / name / "run" / "episodes.csv").read_text() for name in "ab"]
    # All columns but the time.
    one, other = ([line.split(",")[:1] + line.split(",")[2:] for line in g.split()] for g in games)
    assert one == other


def test_evaluation_changes_nothing(tmp_path: pathlib.Path) -> None:
    train(make(tmp_path / "a"))
    evaluated = make(tmp_path / "b", output={"eval_episodes": 2, "eval_interval": 3 * BATCH})
    result = train(evaluated)
    assert len(result.games) == 2
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    scores = [row["eval_return"] for row in rows(tmp_path / "b")]
    assert sum(score != "nan" for score in scores) >= 3


def test_each_evaluation_is_a_row_of_its_step_and_played_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = {"eval_episodes": 2, "eval_interval": 2 * BATCH, "log_interval": 1e6}
    played, play = [], Evaluation.play

    def noted(self: Evaluation, steps: int) -> float | None:
        played.append(steps)
        return play(self, steps)

    monkeypatch.setattr(Evaluation, "play", noted)
    train(make(tmp_path, 6, output=output))
    assert played == [2 * BATCH, 4 * BATCH, 6 * BATCH]
    assert [int(row["step"]) for row in rows(tmp_path)] == played
    assert all(math.isfinite(float(row["eval_return"])) for row in rows(tmp_path))


def test_an_evaluation_is_due_once_whatever_an_update_takes(tmp_path: pathlib.Path) -> None:
    for games, due in [(2, [False, True, False, False, True]), (0, [False] * 5)]:
        output = {"eval_episodes": games, "eval_interval": 100}
        algorithm, source, _ = build(config := make(tmp_path, output=output), 0)
        with contextlib.closing(source):
            evaluation = Evaluation(config, algorithm, 0, lambda: None, print)
            assert [evaluation.is_due(n) for n in (99, 1024, 1024, 1099, 1100)] == due


def test_the_games_of_a_dropped_rollout_do_not_count(tmp_path: pathlib.Path) -> None:
    """They are played again, from the checkpoint before it."""
    rows_left = 3 * T - 1

    def on_row() -> None:
        nonlocal rows_left
        rows_left -= 1
        if rows_left < 0:
            raise Interrupted

    config = make(tmp_path, env={"env": f"{PROBES}:counting"}, system={"num_envs": B})
    _, source, learner = build(config, 0, 0, on_row)
    with contextlib.closing(source):
        for _ in range(2):
            source.fill()
            learner.step()
        assert len(source.episodes()) == 2 * B  # after steps 3 and 8
        with pytest.raises(Interrupted):
            source.fill()  # step 14 ends another
        assert source.episodes() == []


def test_the_games_of_rollouts_that_wait_do_not_count(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_left = 2 * BATCH + T + 3  # one rollout waits, another is cut off

    def on_wait(run: Run) -> None:
        nonlocal rows_left
        rows_left -= 1
        if rows_left < 0:
            raise Interrupted

    monkeypatch.setattr(Run, "_on_wait", on_wait)
    config = make(tmp_path, env={"env": f"{PROBES}:counting"}, system={"num_envs": 1})
    assert train(config).steps == 2 * BATCH
    with (tmp_path / "run" / "episodes.csv").open() as file:
        assert [int(game["length"]) for game in csv.DictReader(file)] == [3, 4, 5]  # not 6
    assert checkpoint.load(tmp_path / "run").state["statistics"]["episodes"] == 3


@pytest.mark.parametrize("use_lstm", [False, True])
def test_a_resumed_run_equals_one_that_never_stopped(
    tmp_path: pathlib.Path, use_lstm: bool
) -> None:
    network = {"use_lstm": use_lstm}
    whole = make(tmp_path / "whole", 20, network=network)
    parts = make(tmp_path / "parts", 20, network=network)
    rates: dict[str, dict[int, float]] = {"whole": {}, "parts": {}}

    def note(name: str, stop_at: int = -1) -> Callable[[Run], None]:
        def after(run: Run) -> None:
            rates[name][run.learner.steps] = run.algorithm.optimizer.param_groups[0]["lr"]
            if run.learner.version == stop_at:
                run.stop.request()

        return after

    assert train(whole, note("whole")).exit_code == 0
    first = train(parts, note("parts", 7))
    # Seven is between the two batches of a rollout; the run goes on to its end.
    assert (first.exit_code, first.steps) == (143, 8 * BATCH)
    second = train(parts, note("parts", 14))
    assert (second.exit_code, second.steps) == (143, 14 * BATCH)
    last = train(parts, note("parts"))
    assert (last.exit_code, last.steps) == (0, 20 * BATCH)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    assert rates["whole"] == rates["parts"]
    steps = [int(row["step"]) for row in rows(tmp_path / "parts")]
    assert steps == [k * BATCH for k in range(1, 21)]
    for name in ("mean_return_100", "episodes", "total_loss", "updates"):
        one, other = ([row[name] for row in rows(tmp_path / x)] for x in ("whole", "parts"))
        assert one == other, name


def test_rows_after_the_checkpoint_are_cut(tmp_path: pathlib.Path) -> None:
    """As after a kill -9: the log went on, the checkpoint did not."""
    config = make(tmp_path, 6, output={"disable_checkpoint": False})

    class Killed(BaseException):
        pass

    def after(run: Run) -> None:
        if run.learner.version == 2:
            run.saving.save()
        if run.learner.version == 5:
            run.saving.save = lambda acting=True: None  # type: ignore[method-assign]
            raise Killed

    with pytest.raises(Killed):
        train(config, after)
    assert [int(row["step"]) for row in rows(tmp_path)] == [BATCH * k for k in range(1, 6)]
    assert train(config).steps == 6 * BATCH
    assert [int(row["step"]) for row in rows(tmp_path)] == [BATCH * k for k in range(1, 7)]


def test_other_environments_begin_new_episodes(tmp_path: pathlib.Path) -> None:
    train(make(tmp_path, 4))
    result = train(make(tmp_path, 8, system={"num_envs": 2}))
    assert result.steps == 8 * BATCH
    log = (tmp_path / "run" / "out.log").read_text()
    assert "continues at step 40, with new episodes in every environment" in log


@pytest.mark.parametrize("how", ["serial", "env_workers", "actors", "learners"])
def test_counting_through_every_runner(
    tmp_path: pathlib.Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    last: dict[str, torch.Tensor] = {}
    update = impala.Impala.update

    def spy(self: impala.Impala, batch: Rollout, steps: int) -> Any:
        episode, step = batch.obs.unbind(-1)
        length = 3 + episode % 4
        end, even = step == length, episode % 2 == 0
        assert (batch.first == (step == 0)).all()
        assert (batch.reward == step).all()
        assert (batch.discount == 1 - (end & even).float()).all()
        assert (step[1:] == torch.where(end, 0.0, step + 1)[:-1]).all()
        assert (episode[1:] == (episode + end)[:-1]).all()
        action = torch.where(batch.first[1:], 0, batch.action[:-1])
        assert (batch.prev_action[1:] == action).all()
        assert (batch.action[-1] == 0).all()
        began = (step[0] == 0) & (episode[0] == 0)
        assert ((batch.state[0] == 0).all(0).all(-1) == began).all()
        seen.extend(batch.version.tolist())
        if how == "serial":  # one batch is one rollout: its row 0 is row T of the one before
            for field in ("obs", "reward", "discount", "first", "prev_action"):
                rows_of_field = getattr(batch, field)
                if field in last:
                    assert torch.equal(rows_of_field[0], last[field])
                last[field] = rows_of_field[T].clone()
        return update(self, batch, steps)

    monkeypatch.setattr(impala.Impala, "update", spy)
    system: dict[str, Any] = {
        "serial": {"num_envs": B},
        "env_workers": {"num_envs": 4},
        "actors": {"num_actors": 2},
        "learners": {"num_learners": 2, "num_envs": 4},
    }[how]
    env = {"env": f"{PROBES}:counting", "env_workers": 2 if how == "env_workers" else 0}
    config = make(tmp_path, 12, env=env, system=system, network={"use_lstm": True})
    result = train(config)
    assert result.steps == 12 * BATCH
    assert len(seen) == 12 * B // config.system.num_learners
    if how in ("serial", "env_workers"):
        lags = [0] * B if how == "serial" else [0] * B + [1] * B
        expected = [k // B - lag for k, lag in enumerate(lags * (12 * B // len(lags)))]
        assert seen == expected
    with (tmp_path / "run" / "episodes.csv").open() as file:
        games = list(csv.DictReader(file))
    assert len(games) >= 10
    for game in games:
        length = int(game["length"])
        assert 3 <= length <= 6
        assert float(game["return"]) == length * (length + 1) / 2
        assert game["truncated"] == str(int(length in (4, 6)))


def poison(monkeypatch: pytest.MonkeyPatch, updates: set[int]) -> list[int]:
    """Makes the gradient of some updates not a number; returns a list of those that came."""
    came: list[int] = []
    original = impala.Impala.update

    def update(self: impala.Impala, batch: Rollout, steps: int) -> Any:
        number = steps // BATCH
        came.append(number)
        if number in updates:
            batch = batch._replace(reward=batch.reward * float("nan"))
        return original(self, batch, steps)

    monkeypatch.setattr(impala.Impala, "update", update)
    return came


def test_one_bad_gradient_is_skipped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {5})
    weights: dict[int, torch.Tensor] = {}

    def after(run: Run) -> None:
        parameters = [p.detach().reshape(-1) for p in run.algorithm.model.parameters()]
        weights[run.learner.version] = torch.cat(parameters).clone()

    assert train(make(tmp_path), after).exit_code == 0
    assert torch.equal(weights[5], weights[6])
    assert not torch.equal(weights[6], weights[7])
    assert weights[10].isfinite().all()


def test_ten_bad_gradients_end_the_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = poison(monkeypatch, set(range(4, 99)))
    with pytest.raises(Diverged):
        train(make(tmp_path, 50, output={"log_interval": 1e6}))
    assert came == list(range(14))
    assert int(rows(tmp_path)[-1]["step"]) == 13 * BATCH  # what it was like at its end
    saved = checkpoint.load(tmp_path / "run")
    assert all(x.isfinite().all() for x in saved.model.values())
    assert saved.step == 13 * BATCH
    assert "Diverged" in (tmp_path / "run" / "out.log").read_text()


@pytest.mark.parametrize(("kind", "text"), [("raise", "broken in step"), ("nan", "finite rewards")])
def test_a_broken_environment_ends_a_serial_run(
    tmp_path: pathlib.Path, kind: str, text: str
) -> None:
    kwargs = {"kind": kind, "at_step": 3 * T + 2}
    env = {"env": f"{PROBES}:fault", "env_kwargs": kwargs}
    with pytest.raises(EnvError, match=text):
        train(make(tmp_path, env=env, system={"num_envs": B}))
    saved = checkpoint.load(tmp_path / "run")
    assert saved.step == 3 * BATCH
    assert saved.env is None  # it would break again
    assert "Traceback" in (tmp_path / "run" / "out.log").read_text()


def test_a_full_disk_does_not_stop_training_but_is_told_at_the_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*args: Any, **kwargs: Any) -> None:
        raise checkpoint.StorageError("no space")

    monkeypatch.setattr(checkpoint, "save", save)
    versions = []
    with pytest.raises(checkpoint.StorageError, match="no space"):
        train(
            make(tmp_path, output={"checkpoint_interval": 0.0}),
            lambda run: versions.append(run.learner.version),
        )
    assert versions == list(range(1, 11))


def test_two_runs_do_not_share_a_directory(tmp_path: pathlib.Path) -> None:
    config = make(tmp_path, 2)

    def after(run: Run) -> None:
        if run.learner.version == 1:
            with pytest.raises(Exception, match="alone"):
                RunDirectory(config.output.savedir, config.output.xpid)

    assert train(config, after).exit_code == 0

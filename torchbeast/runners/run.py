"""One training run from its config to its results: the loop, and what happens around it."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torchbeast import envs
from torchbeast.envs.vector import Episode
from torchbeast.loops.evaluate import evaluate
from torchbeast.runners.build import build, rank_seed
from torchbeast.runners.config import RunConfig, save_config, to_dict
from torchbeast.runners.followers import Followers, Spawned
from torchbeast.runners.ranks import Ranks
from torchbeast.runners.replay_checkpoint import ReplayCheckpoint
from torchbeast.runners.source import Interrupted
from torchbeast.tools import checkpoint
from torchbeast.tools.display import Display, Warnings
from torchbeast.tools.files import StorageError
from torchbeast.tools.logs import RunLog
from torchbeast.tools.memory import rss
from torchbeast.tools.run_directory import RunDirectory
from torchbeast.tools.signals import StopFlag
from torchbeast.tools.state import capture_rng, restore_rng
from torchbeast.tools.statistics import EpisodeStatistics
from torchbeast.tools.timing import Timings
from torchbeast.tools.trace import Trace

GRACE = 2.0  # seconds after a signal, in which a rollout may still be finished
EVALUATION = 2**31  # in place of a rank, for the seeds of evaluation
_log = logging.getLogger("torchbeast")


class Result(NamedTuple):
    """How a run ended."""

    path: Path  # its directory
    steps: int
    mean_return: float  # of the last 100 training episodes
    games: list[Episode]  # of the last evaluation; empty if there was none
    exit_code: int  # 0 done, 130 or 143 stopped by a signal and saved


def train(config: RunConfig, directory: RunDirectory, followers: Followers | None = None) -> Result:
    """Returns how the run of a checked config ended; continues what ``directory`` has of it.

    ``followers`` are the other learners; by default processes of this machine.

    Raises:
        CheckpointError: there are checkpoints, and none of them is whole.
        RankFailed, ActorFailed, EnvError, Diverged: after saving what was learned.
    """
    with StopFlag() as stop:
        run = Run(config, directory, stop, followers or Spawned(config))
        try:
            run.loop()
            return run.finish()
        except BaseException:
            run.save_after_failure()
            raise
        finally:
            run.close()


class Run:
    """The state of one training run on rank 0: learner, source, other ranks, and the tools."""

    def __init__(
        self, config: RunConfig, directory: RunDirectory, stop: StopFlag, followers: Followers
    ) -> None:
        self.config = config
        self.directory = directory
        self.stop = stop
        self.statistics = EpisodeStatistics()
        self.timings = Timings()
        self.games: list[Episode] = []
        self._evaluated: dict[str, float] = {}  # for the next row
        self._close_later: list[Callable[[], None]] = []
        self._last_log = time.monotonic()
        # The first checkpoint comes at once: from there on the run can be resumed, a full disk
        # shows at the start, and the memory that saving takes is taken.
        self._last_save = -math.inf
        self._saved = (-1, -1)  # step and updates of the last checkpoint
        self._told_step = 0
        self._between_rollouts = True  # False: the last one was left unfinished
        path = directory.path
        saved = checkpoint.load(path) if checkpoint.has_checkpoint(path) else None
        save_config(config, path / "config.yaml")
        try:
            self._build(saved, followers)
        except BaseException:
            self.close()
            raise

    def _build(self, saved: checkpoint.Snapshot | None, followers: Followers) -> None:
        config = self.config
        steps = saved.step if saved is not None else 0
        self.algorithm, self.source, self.learner = build(config, 0, steps, self._on_wait)
        self._close_later.append(self.source.close)
        self._replay = ReplayCheckpoint(self.directory.path, self.source.buffer, config)
        version = self._take_back(saved) if saved is not None else 0
        self.learner.resume(steps, version)
        self._told_step = steps
        size = config.system.num_learners
        self.ranks = Ranks(followers, size, self.algorithm, steps, version)
        self._close_later.append(self.ranks.close)
        interval = config.output.eval_interval
        self._next_eval = interval and steps - steps % interval + interval
        self.log = RunLog(
            self.directory.path, steps, tensorboard=not config.output.disable_tensorboard
        )
        self._close_later.append(self.log.close)
        name = type(self.algorithm).__name__.lower()
        title = f"{name}  {config.env.name}  {self.algorithm.device}  seed {config.system.seed}"
        self.display = Display(title, config.system.total_steps, self.directory.path)
        self._close_later += [self.display.close, Warnings(self.display).close]
        self.display.update(steps, version, self.statistics, {})
        if saved is not None:
            self._continue_acting(saved)

    def _take_back(self, saved: checkpoint.Snapshot) -> int:
        """Returns the updates so far, after taking weights, optimizer and statistics from there."""
        try:
            self.algorithm.load_state_dict({"model": saved.model, **saved.optim})
            if "statistics" in saved.state:  # a model.tar has none, nor the number of updates
                self.statistics.load_state_dict(saved.state["statistics"])
            version = int(saved.state.get("version", 0))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise checkpoint.CheckpointError(
                f"the checkpoint of {self.directory.path} at step {saved.step} is of another "
                f"algorithm or network: {error}"
            ) from error
        self._replay.restore(saved.step)
        return version

    def _continue_acting(self, saved: checkpoint.Snapshot) -> None:
        # An empty replay cannot go on in the middle of episodes that it has not seen.
        begun = self._replay.whole and saved.env is not None
        if begun and _acts_as(saved.state["config"], to_dict(self.config)):
            assert saved.env is not None
            self.source.restore(saved.env)
            restore_rng(saved.rng)
            how = "exactly where it stopped"
        else:
            how = "with new episodes in every environment"
            how += "" if self._replay.whole else " and an empty replay"
        self._last_save = time.monotonic()
        self.display.note(f"continues at step {saved.step:,}, {how}")
        _log.info("continues at step %d, %s", saved.step, how)

    def loop(self) -> None:
        """Acts and learns in turn until ``total_steps``, or until asked to stop."""
        total_steps = self.config.system.total_steps
        folder = self.directory.path if self.config.output.write_profiler_trace else None
        with Trace(folder, self.display.note) as trace:
            self._loop(total_steps, trace)

    def _loop(self, total_steps: int, trace: Trace) -> None:
        try:
            while not self.ranks.agree(
                self.learner.steps >= total_steps or self._should_stop(), self.learner.steps
            ):
                self.timings.start()
                self.source.fill()
                self.timings.mark("act")
                with self.ranks.failing_with_traceback():
                    self.learner.step(self.ranks.steps)
                self.timings.mark("learn")
                self._after_update()
                trace.updated()
        except Interrupted:
            self._between_rollouts = False
            _log.info("stopped in the middle of a rollout, which is dropped")

    def finish(self) -> Result:
        """Returns the result after the last evaluation, row and checkpoint."""
        self._tell_episodes()  # other learners told theirs at the last turn
        if not self.stop.requested and self.config.output.eval_episodes:
            self._evaluate()
        self._write_row()
        self.save(acting=self._between_rollouts)
        return Result(
            self.directory.path,
            self.learner.steps,
            self.statistics.mean_return,
            self.games,
            self.stop.exit_code,
        )

    def save(self, acting: bool = True) -> None:
        """Writes a checkpoint and model.tar, unless this step has one already.

        Without ``acting``, a run that continues from there begins new episodes.

        Raises:
            StorageError: the disk does not take it; what was saved before is untouched.
        """
        self._last_save = time.monotonic()
        # A replay makes several updates at one step.
        now = (self.learner.steps, self.learner.version)
        if self.config.output.disable_checkpoint or self._saved == now:
            return
        state = self.algorithm.state_dict()
        snapshot = checkpoint.Snapshot(
            step=self.learner.steps,
            model=state.pop("model"),
            optim=state,
            state={
                "version": self.learner.version,
                "statistics": self.statistics.state_dict(),
                "config": to_dict(self.config),
            },
            rng=capture_rng(),
            env=self.source.snapshot() if acting and self.config.system.num_learners == 1 else None,
        )
        settings = to_dict(self.config)
        flags = {"algo": settings.pop("algo")}
        flags |= {k: v for group in settings.values() for k, v in group.items()}
        score = self.statistics.mean_return
        self._replay.save(self.learner.steps)
        checkpoint.save(
            self.directory.path,
            snapshot,
            flags,
            keep=self.config.output.keep_checkpoints,
            score=score if self.statistics.episodes else None,
        )
        self._saved = now
        self._replay.forget_others(self.learner.steps)

    def save_after_failure(self) -> None:
        """Saves what was learned, if the weights are still good."""
        _log.error("the run failed", exc_info=True)
        try:
            self.save(acting=False)  # the state of what failed would fail again
        except Exception as error:
            _log.warning("no checkpoint after the failure: %s", error)

    def close(self) -> None:
        """Ends processes, environments and files; every part, whatever another one does."""
        while self._close_later:
            try:
                self._close_later.pop()()
            except Exception as error:
                _log.warning("while closing: %s", error)

    def _on_wait(self) -> None:
        if self.stop.overdue(GRACE):
            raise Interrupted
        # While a replay fills up for the first time there are steps, but no updates.
        waited = time.monotonic() - self._last_log
        if waited >= max(1.0, self.config.output.log_interval) and self._steps_to_tell():
            self._tell_episodes()
            self._write_row()

    def _on_evaluation_row(self) -> None:
        self._on_wait()
        self.ranks.hold()

    def _steps_to_tell(self) -> bool:
        return self.learner.steps > self._told_step

    def _should_stop(self) -> bool:
        return self.stop.requested and (self._at_boundary() or self.stop.overdue(GRACE))

    def _at_boundary(self) -> bool:
        # Between rollouts a run that acts itself can be continued bit for bit.
        return self.config.system.num_actors > 0 or self.source.buffer.waiting() == 0

    def _after_update(self) -> None:
        self._tell_episodes()
        output = self.config.output
        now = time.monotonic()
        if now - self._last_log >= output.log_interval:
            self._write_row()
        if output.eval_interval and self.learner.steps >= self._next_eval:
            self._next_eval += output.eval_interval
            self._evaluate()
        if now - self._last_save >= output.checkpoint_interval and self._at_boundary():
            try:
                self.save()
            except StorageError as error:
                _log.warning("training goes on without a checkpoint: %s", error)

    def _tell_episodes(self) -> None:
        episodes = self.source.episodes() + self.ranks.episodes()
        self.statistics.add(episodes)
        self.log.episodes(episodes, self.learner.steps)

    def _write_row(self) -> None:
        self._last_log = time.monotonic()
        metrics = self.learner.metrics()
        if not metrics and not self._evaluated and not self._steps_to_tell():
            return
        self._told_step = self.learner.steps
        shares = self.timings.shares()
        row: dict[str, float] = {"step": self.learner.steps, "updates": self.learner.version}
        row |= self.statistics.take() | metrics | self.source.metrics() | self._evaluated
        row |= {f"time_{stage}": share for stage, share in shares.items()}
        self._evaluated = {}
        self.log.log(row | {"rss_gb": rss() / 1e9})
        self.display.update(
            self.learner.steps, self.learner.version, self.statistics, metrics, shares
        )

    def _evaluate(self) -> None:
        count = self.config.output.eval_episodes
        seed = rank_seed(self.config.system.seed, EVALUATION)
        config = dataclasses.replace(self.config.env, life_loss=False, env_workers=0)
        env = envs.make(config, count, seed, step_timeout=self.config.system.step_timeout)
        try:
            steps = self.config.output.eval_max_steps
            self.games = evaluate(
                self.algorithm, env, max_steps=steps, on_row=self._on_evaluation_row
            )
        except Interrupted:
            return
        finally:
            env.close()
        if len(self.games) < count:
            self.display.note(
                f"{count - len(self.games)} of {count} games of the evaluation were not over after "
                f"{steps:,} steps (--eval_max_steps)"
            )
        returns = [game.episode_return for game in self.games]
        if returns:
            mean = sum(returns) / len(returns)
            self._evaluated = {"eval_return": mean}
            self.display.note(f"evaluation at step {self.learner.steps:,}: {mean:.1f}")


def _acts_as(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Returns whether two configs, as nested dicts, have the same environments in one process."""
    system = ("num_learners", "num_actors", "num_envs", "env_groups")
    env = ("env_workers", "env_backend")
    settings = [*(("system", name) for name in system), *(("env", name) for name in env)]
    # An old run has no setting that came later: its environments begin anew.
    return all(before[group].get(name) == now[group][name] for group, name in settings)

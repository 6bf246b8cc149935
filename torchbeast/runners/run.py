"""One training run from its config to its results: the loop, and what happens around it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torchbeast.envs.vector import Episode
from torchbeast.runners.build import build
from torchbeast.runners.config import RunConfig, save_config
from torchbeast.runners.evaluation import Evaluation
from torchbeast.runners.followers import Followers, Spawned
from torchbeast.runners.ranks import Ranks
from torchbeast.runners.saving import Saving
from torchbeast.runners.source import Interrupted
from torchbeast.tools import checkpoint
from torchbeast.tools.display import Display, Warnings
from torchbeast.tools.files import StorageError
from torchbeast.tools.logs import RunLog
from torchbeast.tools.memory import rss
from torchbeast.tools.run_directory import RunDirectory
from torchbeast.tools.signals import StopFlag
from torchbeast.tools.statistics import EpisodeStatistics
from torchbeast.tools.timing import Timings
from torchbeast.tools.trace import Trace

GRACE = 2.0  # seconds after a signal, in which a rollout may still be finished
_log = logging.getLogger("torchbeast")


class Result(NamedTuple):
    """How a run ended."""

    path: Path  # its directory
    steps: int
    mean_return: float  # of the last 100 training episodes
    games: list[Episode]  # of the evaluation at the last step; empty if there was none
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
        self._evaluated: dict[str, float] = {}  # for the next row
        self._close_later: list[Callable[[], None]] = []
        self._last_log = time.monotonic()
        self._told = (0, 0)  # step and games of the last row
        self._between_rollouts = True  # False: the last one was left unfinished
        path = directory.path
        saved = checkpoint.load(path) if checkpoint.has_checkpoint(path) else None
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
        self.saving = Saving(
            config, self.directory.path, self.learner, self.source, self.statistics
        )
        version = self.saving.take_back(saved) if saved is not None else 0
        save_config(config, self.directory.path / "config.yaml")  # it fits what was saved
        self.learner.resume(steps, version)
        self._told = (steps, self.statistics.episodes)
        size = config.system.num_learners
        self.ranks = Ranks(followers, size, self.algorithm, steps, version)
        self._close_later.append(self.ranks.close)
        self.log = RunLog(
            self.directory.path, steps, tensorboard=not config.output.disable_tensorboard
        )
        self._close_later.append(self.log.close)
        name = type(self.algorithm).__name__.lower()
        title = f"{name}  {config.env.name}  {self.algorithm.device}  seed {config.system.seed}"
        self.display = Display(title, config.system.total_steps, self.directory.path)
        self._close_later += [self.display.close, Warnings(self.display).close]
        self.display.update(steps, version, self.statistics, {})
        self.evaluation = Evaluation(
            config, self.algorithm, steps, self._on_evaluation_row, self.display.note
        )
        if saved is not None:
            how = self.saving.go_on(saved)
            self.display.note(f"continues at step {steps:,}, {how}")
            _log.info("continues at step %d, %s", steps, how)

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
        self._tell_last_episodes()
        steps = self.learner.steps
        wanted = self.config.output.eval_episodes and not self.stop.requested
        if wanted and self.evaluation.step != steps:
            self._evaluate()
        self._write_row()
        self.saving.save(acting=self._between_rollouts)
        return Result(
            self.directory.path,
            steps,
            self.statistics.mean_return,
            self.evaluation.games if self.evaluation.step == steps else [],
            self.stop.exit_code,
        )

    def save_after_failure(self) -> None:
        """Writes the last row, and saves what was learned if the weights are still good."""
        _log.error("the run failed", exc_info=True)
        try:
            self._tell_last_episodes()
            self._write_row()
        except Exception as error:
            _log.warning("no last row after the failure: %s", error)
        try:
            self.saving.save(acting=False)  # the state of what failed would fail again
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
        if waited >= max(1.0, self.config.output.log_interval) and self._more_to_tell():
            self._tell_episodes()
            self._write_row()

    def _on_evaluation_row(self) -> None:
        self._on_wait()
        self.ranks.hold()

    def _more_to_tell(self) -> bool:
        return (self.learner.steps, self.statistics.episodes) != self._told

    def _should_stop(self) -> bool:
        return self.stop.requested and (self._at_boundary() or self.stop.overdue(GRACE))

    def _at_boundary(self) -> bool:
        # Between rollouts a run that acts itself can be continued bit for bit.
        return self.config.system.num_actors > 0 or self.source.buffer.waiting() == 0

    def _after_update(self) -> None:
        self._tell_episodes()
        if self.evaluation.is_due(self.learner.steps):
            self._evaluate()
        waited = time.monotonic() - self._last_log
        if self._evaluated or waited >= self.config.output.log_interval:
            self._write_row()
        if self.saving.is_due() and self._at_boundary():
            try:
                self.saving.save()
            except StorageError as error:
                _log.warning("training goes on without a checkpoint: %s", error)

    def _tell_episodes(self) -> None:
        self._tell(self.source.episodes() + self.ranks.episodes())

    def _tell_last_episodes(self) -> None:
        # Other learners told theirs at the last turn, unless the run was cut off.
        episodes = self.ranks.episodes()
        if not self.source.buffer.waiting():  # else some are of rollouts that nobody learned from
            episodes += self.source.episodes()
        self._tell(episodes)

    def _tell(self, episodes: list[Episode]) -> None:
        self.statistics.add(episodes)
        self.log.episodes(episodes, self.learner.steps)

    def _write_row(self) -> None:
        self._last_log = time.monotonic()
        metrics = self.learner.metrics()
        if not metrics and not self._evaluated and not self._more_to_tell():
            return
        same_row = self._told[0] == self.learner.steps
        self._told = (self.learner.steps, self.statistics.episodes)
        shares = self.timings.shares()
        row: dict[str, float] = {"step": self.learner.steps, "updates": self.learner.version}
        row |= self.statistics.take(same_row) | metrics | self.source.metrics() | self._evaluated
        row |= {f"time_{stage}": share for stage, share in shares.items()}
        self._evaluated = {}
        self.log.log(row | {"rss_gb": rss() / 1e9})
        self.display.update(
            self.learner.steps, self.learner.version, self.statistics, metrics, shares
        )

    def _evaluate(self) -> None:
        with contextlib.suppress(Interrupted):
            mean = self.evaluation.play(self.learner.steps)
            if mean is not None:
                self._evaluated = {"eval_return": mean}

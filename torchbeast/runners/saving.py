"""What a run leaves on disk to go on from, and how it goes on from there."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from torchbeast.loops.learner import Learner
from torchbeast.runners.config import RunConfig, to_dict
from torchbeast.runners.replay_checkpoint import ReplayCheckpoint
from torchbeast.runners.source import Source
from torchbeast.tools import checkpoint
from torchbeast.tools.state import capture_rng, restore_rng
from torchbeast.tools.statistics import EpisodeStatistics


class Saving:
    """Writes the checkpoints of a run, and takes back what an earlier process wrote.

    Args:
        config: the checked config of the run.
        path: its directory.
        learner: whose weights, optimizer and counts are saved.
        source: whose environments and replay are saved, where they can go on.
        statistics: of the episodes of training.
    """

    def __init__(
        self,
        config: RunConfig,
        path: Path,
        learner: Learner,
        source: Source,
        statistics: EpisodeStatistics,
    ) -> None:
        self._config, self._path = config, path
        self._learner, self._source, self._statistics = learner, source, statistics
        self._replay = ReplayCheckpoint(path, source.buffer, config)
        # The first checkpoint comes at once: from there on the run can be resumed, a full disk
        # shows at the start, and the memory that saving takes is taken.
        self._last_save = -math.inf
        self._saved = (-1, -1, -1)  # step, updates and games of the last checkpoint

    def take_back(self, saved: checkpoint.Snapshot) -> int:
        """Returns the updates so far, after taking weights, optimizer and statistics from there.

        Raises:
            CheckpointError: it is of another algorithm or network, or its replay does not fit.
        """
        try:
            self._learner.algorithm.load_state_dict({"model": saved.model, **saved.optim})
            if "statistics" in saved.state:  # a model.tar has none, nor the number of updates
                self._statistics.load_state_dict(saved.state["statistics"])
            version = int(saved.state.get("version", 0))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise checkpoint.CheckpointError(
                f"the checkpoint of {self._path} at step {saved.step} is of another "
                f"algorithm or network: {error}"
            ) from error
        self._replay.restore(saved.step)
        return version

    def go_on(self, saved: checkpoint.Snapshot) -> str:
        """Returns how acting goes on, after taking the environments from there if they can."""
        self._last_save = time.monotonic()
        # An empty replay cannot go on in the middle of episodes that it has not seen.
        begun = self._replay.whole and saved.env is not None
        if begun and _acts_as(saved.state["config"], to_dict(self._config)):
            assert saved.env is not None
            self._source.restore(saved.env)
            restore_rng(saved.rng)
            return "exactly where it stopped"
        how = "with new episodes in every environment"
        return how + ("" if self._replay.whole else " and an empty replay")

    def is_due(self) -> bool:
        """Returns whether the last checkpoint is older than ``checkpoint_interval``."""
        return time.monotonic() - self._last_save >= self._config.output.checkpoint_interval

    def save(self, acting: bool = True) -> None:
        """Writes a checkpoint and model.tar, unless nothing came since the last one.

        Without ``acting``, a run that continues from there begins new episodes.

        Raises:
            StorageError: the disk does not take it; what was saved before is untouched.
        """
        self._last_save = time.monotonic()
        learner, config = self._learner, self._config
        # A replay makes several updates at one step; the last games of other learners come late.
        now = (learner.steps, learner.version, self._statistics.episodes)
        if config.output.disable_checkpoint or self._saved == now:
            return
        state = learner.algorithm.state_dict()
        settings = to_dict(config)
        alone = config.system.num_learners == 1
        snapshot = checkpoint.Snapshot(
            step=learner.steps,
            model=state.pop("model"),
            optim=state,
            state={
                "version": learner.version,
                "statistics": self._statistics.state_dict(),
                "config": settings,
            },
            rng=capture_rng(),
            env=self._source.snapshot() if acting and alone else None,
        )
        self._replay.save(learner.steps)
        checkpoint.save(
            self._path,
            snapshot,
            _flags(settings),
            keep=config.output.keep_checkpoints,
            score=self._statistics.score,
        )
        self._saved = now
        self._replay.forget_others(learner.steps)


def _flags(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of all groups side by side, as model.tar has had them since 2019."""
    groups = (group for name, group in settings.items() if name != "algo")
    return {"algo": settings["algo"]} | {k: v for group in groups for k, v in group.items()}


def _acts_as(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Returns whether two configs, as nested dicts, have the same environments in one process."""
    system = ("num_learners", "num_actors", "num_envs", "env_groups")
    env = ("env_workers", "env_backend")
    settings = [*(("system", name) for name in system), *(("env", name) for name in env)]
    # An old run has no setting that came later: its environments begin anew.
    return all(before[group].get(name) == now[group][name] for group, name in settings)

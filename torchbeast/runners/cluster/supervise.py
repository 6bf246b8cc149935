"""Watches over the learner of a run on a cluster: when it dies, it goes on from its checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from torchbeast.data.process import Worker
from torchbeast.runners.config import RunConfig
from torchbeast.runners.ranks import RankFailed
from torchbeast.tools import checkpoint
from torchbeast.tools.run_directory import expand, new_directory
from torchbeast.tools.signals import StopFlag

Learn = Callable[[RunConfig, Callable[[], bool]], int]  # the second tells whether to stop


class LearnerDied(Exception):
    """The learner's process, or that of another rank, ended without saying why."""


def supervise(config: RunConfig, learn: Learn) -> int:
    """Returns the exit code of ``learn(config, asked_to_stop)``, run in a process of its own.

    When that process is killed, or a learner of another rank is lost, it starts again and resumes
    the run; what it raises else is raised here.

    Raises:
        RankFailed: that happened too often without a checkpoint between.
    """
    output = config.output
    xpid = output.xpid or new_directory(expand(output.savedir)).name
    config = dataclasses.replace(config, output=dataclasses.replace(output, xpid=xpid))
    path = expand(output.savedir) / xpid
    step, failures = -1, 0
    with StopFlag() as stop:
        while True:
            try:
                return _run(config, learn, stop)
            except (LearnerDied, RankFailed) as error:
                before, step = step, _newest_step(path)
                failures = 0 if step > before else failures + 1
                if stop.requested:
                    return stop.exit_code
                if failures >= config.cluster.learner_restarts:
                    after = f"after {failures} restarts (--learner_restarts)"
                    raise RankFailed(f"{error}\n{after}") from error
                print(f"{error}; the run goes on from step {max(0, step):,}", file=sys.stderr)
            # Never again from scratch, whatever was asked for at first.
            output = dataclasses.replace(config.output, restart="resume")
            config = dataclasses.replace(config, output=output)


def _run(config: RunConfig, learn: Learn, stop: StopFlag) -> int:
    learner = Worker(_learn, (config, learn), name="the learner")
    asked = False
    try:
        while not wait([learner.connection, learner.sentinel], timeout=0.2):
            if stop.requested and not asked:
                asked = True
                assert stop.signal is not None
                # The message for a learner that has no handler yet, the signal for one that has.
                with contextlib.suppress(OSError):
                    learner.connection.send(stop.signal)
                os.kill(learner.pid, getattr(signal, stop.signal))
        try:
            kind, content = learner.connection.recv()
        except (EOFError, OSError):
            learner.wait(1.0)
            raise LearnerDied(f"the learner was {learner.exit_text()}") from None
        learner.wait(10.0)  # it says farewell to the cluster
    finally:
        learner.kill()
    if kind == "raised":
        raise content
    return int(content)


def _learn(connection: Any, config: RunConfig, learn: Learn) -> None:
    try:
        connection.send(("ended", learn(config, connection.poll)))
    except Exception as error:
        error.__cause__ = error.__context__ = None
        try:
            connection.send(("raised", error))
        except Exception:  # it cannot be pickled
            connection.send(("raised", RuntimeError(traceback.format_exc())))


def _newest_step(path: Path) -> int:
    if not checkpoint.has_checkpoint(path):
        return -1
    try:
        return checkpoint.load(path).step
    except checkpoint.CheckpointError:
        return -1

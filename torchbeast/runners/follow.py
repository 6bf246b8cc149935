"""A learner other than rank 0: the same loop, without logs, files and display."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections import deque
from collections.abc import Callable

from torchbeast.algorithms.ranks import Disconnected
from torchbeast.data.process import LogTo
from torchbeast.runners.build import acting_of, build
from torchbeast.runners.config import RunConfig
from torchbeast.runners.devices import device
from torchbeast.runners.exchange import (
    STOP,
    WAIT,
    Report,
    await_all,
    broadcast_state,
    broadcast_turn,
    gather_reports,
)
from torchbeast.runners.meeting import Meeting, RankFailed
from torchbeast.runners.source import Interrupted

MOST_WARNINGS = 100  # between two reports
PATIENCE = 1.0  # seconds between two looks, in the middle of acting, whether the run is over


def follow(
    config: RunConfig, rank: int, address: str, on_joined: Callable[[], None] | None = None
) -> None:
    """Runs learner ``rank`` of a checked config until rank 0 ends the run.

    Args:
        config: the same on all ranks.
        rank: from 1 on.
        address: where rank 0 waits, as ``Meeting`` takes it.
        on_joined: called when all learners are connected.

    Raises:
        RankFailed: something failed here, which rank 0 was told; or rank 0 is gone.
        Disconnected: rank 0 never came.
    """
    size = config.system.num_learners
    # What is warned of here is told there, where a person looks; a flood loses its oldest.
    warnings: deque[tuple[int, str]] = deque(maxlen=MOST_WARNINGS)
    LogTo(lambda level, text: warnings.append((level, text)))
    meeting = Meeting(address, rank, size)
    try:
        meeting.join(device(config.system, rank))
        if on_joined is not None:
            on_joined()
        _learn(config, rank, meeting, warnings)
    except Interrupted:  # the run is over
        pass
    except Disconnected as error:
        if meeting.failure() is None and not _over(meeting):
            raise RankFailed(f"learner {rank} of {size} is left alone: {error}") from error
    except (Exception, SystemExit) as error:
        before = "".join(f"{text}\n" for _, text in warnings)
        text = f"learner {rank} of {size} failed:\n{before}{traceback.format_exc()}"
        meeting.fail(text)
        raise RankFailed(text) from error
    finally:
        meeting.close()


def log_to_stderr() -> None:
    """Shows warnings here, too: rank 0 hears of them between two updates, if it ever does."""
    logging.getLogger("torchbeast").addHandler(logging.StreamHandler())


def _learn(
    config: RunConfig, rank: int, meeting: Meeting, warnings: deque[tuple[int, str]]
) -> None:
    start = broadcast_state()
    first = acting_of(config, rank).first
    algorithm, source, learner = build(config, rank, start["steps"], _Watch(meeting))
    with contextlib.closing(source):
        algorithm.load_state_dict(start["algorithm"])
        learner.resume(start["steps"], start["version"])
        await_all()
        while True:
            turn = broadcast_turn()
            if turn.report:
                episodes = [e._replace(env=first + e.env) for e in source.episodes()]
                gather_reports(Report(episodes, [warnings.popleft() for _ in range(len(warnings))]))
            if turn.action == STOP:
                return
            if turn.action == WAIT:
                continue
            source.fill()
            learner.step(turn.steps)
            learner.metrics()


class _Watch:
    """Called while acting or waiting: ends that when the run is over, or rank 0 is gone."""

    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PATIENCE
            if self._meeting.over():
                raise Interrupted


def _over(meeting: Meeting) -> bool:
    try:
        return meeting.over()
    except Disconnected:
        return False

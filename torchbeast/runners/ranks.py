"""Several learners, seen from rank 0: each acts and learns with its share of the batch."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from torchbeast.algorithms.base import Algorithm
from torchbeast.algorithms.ranks import Disconnected
from torchbeast.envs.vector import Episode
from torchbeast.runners.exchange import (
    GO,
    STOP,
    WAIT,
    Report,
    Turn,
    await_all,
    broadcast_state,
    broadcast_turn,
    gather_reports,
)
from torchbeast.runners.followers import Followers
from torchbeast.runners.meeting import TIMEOUT, Meeting, RankFailed
from torchbeast.runners.process import START_TIMEOUT

__all__ = ["RankFailed", "Ranks"]

REPORT_PERIOD = 0.2  # seconds between two gatherings of reports: more would cost time
WAIT_PERIOD = TIMEOUT.total_seconds() / 5  # between two words to those that wait for rank 0
_log = logging.getLogger("torchbeast")


class Ranks:
    """The other learners of a run; none if there is one learner.

    Every rank makes the same number of updates. Rank 0 decides after each whether to go on, and
    alone logs and saves.

    Args:
        followers: the others, wherever they are started.
        size: number of learners.
        algorithm: of rank 0: what every rank starts from.
        steps: environment steps learned from so far.
        version: updates so far.

    Raises:
        RankFailed: one of them did not start.
    """

    def __init__(
        self,
        followers: Followers,
        size: int,
        algorithm: Algorithm,
        steps: int = 0,
        version: int = 0,
    ) -> None:
        self._followers = followers
        self._episodes: list[Episode] = []
        self._next_report = self._next_word = 0.0
        self._meeting: Meeting | None = None
        # What all learners' schedules go by; None: there is one learner, which counts itself.
        self.steps: int | None = None
        try:
            if size > 1:
                self._meeting = Meeting(followers.address, 0, size)
                followers.start(self._meeting.address)
                self._await_all(self._meeting)
                with self.failing_with_traceback():
                    self._meeting.join(algorithm.device)
                    # Also for a new run: a user's network may not begin the same everywhere.
                    state = {"algorithm": algorithm.state_dict(), "steps": steps}
                    broadcast_state(state | {"version": version})
                    await_all()  # they are made
        except BaseException:
            self.close()
            raise

    def agree(self, stop: bool, steps: int) -> bool:
        """Returns ``stop`` after telling it, and the steps so far, to all; takes in their reports.

        Raises:
            RankFailed: one of them ended.
        """
        if self._meeting is not None:
            self._tell(STOP if stop else GO, steps)
            self.steps = steps
        return stop

    def hold(self) -> None:
        """Tells those that wait for rank 0 that it is still there; call it often while it is busy.

        Raises:
            RankFailed: one of them ended.
        """
        if self._meeting is not None and time.monotonic() >= self._next_word:
            self._tell(WAIT, 0)

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended on other ranks since the last call."""
        taken, self._episodes = self._episodes, []
        return taken

    @contextlib.contextmanager
    def failing_with_traceback(self) -> Iterator[None]:
        """Turns the broken connection to a dead rank into RankFailed with that rank's traceback."""
        try:
            yield
        except Disconnected as error:
            raise RankFailed(self._cause() or str(error)) from error

    def close(self) -> None:
        """Ends the other learners."""
        if self._meeting is not None:
            self._meeting.end()
        self._followers.close()
        if self._meeting is not None:
            self._meeting.close()
            self._meeting = None

    def _tell(self, action: int, steps: int) -> None:
        now = time.monotonic()
        gather = action == STOP or now >= self._next_report
        with self.failing_with_traceback():
            broadcast_turn(Turn(action, steps, gather))
            if gather:
                self._next_report = now + REPORT_PERIOD
                self._take(gather_reports())
        # After the last turn nobody listens.
        self._next_word = float("inf") if action == STOP else now + WAIT_PERIOD

    def _take(self, reports: dict[int, Report]) -> None:
        for rank, report in reports.items():
            self._episodes += report.episodes
            for level, text in report.warnings:
                _log.log(level, "learner %d: %s", rank, text)

    def _await_all(self, meeting: Meeting) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not meeting.admit():
            failure = self._followers.failure()
            if failure or time.monotonic() > deadline:
                late = (
                    f"none came within {START_TIMEOUT:.0f} s; on a cluster each needs a node with "
                    f"a free CPU, and a free GPU where there is one for each"
                )
                raise RankFailed(f"a learner did not start: {failure or late}")
            time.sleep(0.05)

    def _cause(self) -> str | None:
        """Returns why a learner ended; waits a moment, because a connection breaks before that."""
        deadline = time.monotonic() + 1.0
        cause = None
        while cause is None and time.monotonic() < deadline:
            assert self._meeting is not None
            cause = self._meeting.failure() or self._followers.failure()
            time.sleep(0.02)
        return cause

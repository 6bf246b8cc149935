"""The loop of a sweep: starts runs where there is room, and says what became of each."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from torchbeast.runners.sweep.place import LOST, Job, News, Place
from torchbeast.runners.sweep.progress import Progress, is_finished, read_progress
from torchbeast.tools.files import StorageError
from torchbeast.tools.signals import StopFlag

PERIOD = 0.25  # seconds between two looks at the runs
GRACE = 60.0  # seconds in which runs must have saved after a signal
HELD = 10.0  # seconds until a run is tried again that another process works on
BAD_INPUT, LOCKED, NO_CHECKPOINT = 2, 6, 7  # exit codes, docs/faults.md
HOPELESS = (BAD_INPUT, NO_CHECKPOINT)  # another try would end the same


@dataclasses.dataclass
class Status:
    """What a sweep knows of one of its runs."""

    job: Job
    progress: Progress
    state: str = "waiting"  # waiting, running, done, failed, stopped
    where: str = ""
    tries: int = 0  # that failed
    message: str = ""  # why the last one did
    lost_at: int = -1  # the step at which its machine was lost
    not_before: float = 0.0  # of time.monotonic


class Sweep:
    """The runs of a sweep; those that have finished before are done from the start.

    Args:
        jobs: the runs.
        place: where they go on.
        retries: how often each is started again after it failed.
    """

    def __init__(self, jobs: Sequence[Job], place: Place, retries: int) -> None:
        self.statuses = [Status(job, read_progress(job.path)) for job in jobs]
        self._by_path = {status.job.path: status for status in self.statuses}
        self._place = place
        self._retries = retries
        self._stopping = False
        for status in self.statuses:
            if is_finished(status.job.path, status.job.config):
                status.state = "done"

    @property
    def over(self) -> bool:
        """Whether no run goes on or waits."""
        return all(status.state not in ("waiting", "running") for status in self.statuses)

    def step(self) -> None:
        """Starts what there is room for, and takes notice of what has become of the others."""
        for status in self.statuses:
            if status.state != "waiting" or status.not_before > time.monotonic():
                continue
            if not self._place.free():
                break
            status.state, status.where = "running", ""
            try:
                self._place.start(status.job)
            except StorageError as error:
                status.state, status.message = "failed", str(error)
        for news in self._place.poll():
            self._take(news)

    def stop(self) -> None:
        """Asks what goes on to save and leave; what waits does not begin."""
        self._stopping = True
        for status in self.statuses:
            if status.state == "waiting":
                status.state = "stopped"
        self._place.stop()

    def _take(self, news: News) -> None:
        status = self._by_path[news.job.path]
        status.where, status.progress = news.where, news.progress
        if news.exit_code is None:
            return
        if news.exit_code == 0:
            status.state, status.message = "done", ""
        elif self._stopping:
            status.state = "stopped"
        elif news.exit_code == LOCKED:
            status.state, status.message = "waiting", news.message
            status.not_before = time.monotonic() + HELD
        elif news.exit_code == LOST and status.progress.steps > status.lost_at:
            status.state, status.message = "waiting", news.message
            status.lost_at = status.progress.steps  # it gets further from loss to loss
        else:
            status.tries += 1
            status.message = news.message
            again = status.tries <= self._retries and news.exit_code not in HOPELESS
            status.state = "waiting" if again else "failed"


def conduct(
    sweep: Sweep, place: Place, stop: StopFlag, show: Callable[[Sequence[Status]], None]
) -> None:
    """Goes on until every run has ended, or was asked to stop and has saved."""
    asked = False
    try:
        while not sweep.over and not stop.overdue(GRACE):
            if stop.requested and not asked:
                asked = True
                sweep.stop()
            sweep.step()
            show(sweep.statuses)
            if not sweep.over:
                time.sleep(PERIOD)
    finally:
        place.close()
        for status in sweep.statuses:
            if status.state == "running":  # it did not leave in time
                status.state = "stopped"

"""A worker process over all its incarnations, as its parent sees it."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod

from torchbeast.data.process import Worker

log = logging.getLogger("torchbeast")

START_TIMEOUT = 120.0  # seconds for a worker's imports, on a machine that starts many at once
BACK_OFF = (0.1, 5.0)  # seconds before the first restart of a worker, doubled up to the second


class ActorFailed(RuntimeError):
    """A worker failed too often, or before any actor worked; holds its traceback."""


class Member(ABC):
    """A worker that is watched, and replaced when it is lost.

    Args:
        name: for logs and process lists.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.worker: Worker | None = None  # None between two incarnations
        self.incarnation = -1  # how often it was started again
        self.seed = 0  # of the incarnation
        self.start_at = 0.0  # when the next one may begin
        self.up = False  # its imports are done
        self.ready = False  # it can do its work
        self.rows = 0  # that it says it has made
        self.progress_at = 0.0

    def start(self) -> None:
        """Starts the next incarnation."""
        self.incarnation += 1
        self.up = self.ready = False
        self.worker = self._spawn()
        self.progress_at = time.monotonic()

    @abstractmethod
    def _spawn(self) -> Worker:
        """Returns the worker of the incarnation that begins."""

    @abstractmethod
    def busy(self) -> bool:
        """Returns whether there is something that it should be doing."""

    @abstractmethod
    def state(self) -> str:
        """Returns what the worker is doing, for a person."""

    def overdue(self, step_timeout: float) -> str:
        """Returns what the worker has not done in time; "" if all is well."""
        limit = step_timeout if self.up else START_TIMEOUT
        if not self.busy() or time.monotonic() - self.progress_at <= limit:
            return ""
        return f"made no progress for {limit:g} s (limit: --step_timeout; was {self.state()})"

    def forget(self) -> None:
        """Lets go of the worker and what was its own."""
        self.worker = None
        self.start_at = math.inf

    def bury(self) -> str:
        """Returns how the worker ended, after ending it and everything that it started."""
        assert self.worker is not None
        self.worker.kill()
        text = self.worker.exit_text()
        self.forget()
        return text

    def plan(self, cause: str, trace: str, max_restarts: int, worked: bool) -> None:
        """Plans the next incarnation after a pause.

        Raises:
            ActorFailed: there were ``max_restarts``, or it and all others have yet to work.
        """
        what = f"{self.name} (incarnation {self.incarnation}, seed {self.seed}) {cause}"
        if not self.ready and not worked:
            raise ActorFailed(f"{what}, before any actor had worked\n{trace}".rstrip())
        restarts = self.incarnation
        if restarts >= max_restarts:
            raise ActorFailed(
                f"{what}, after {restarts} restarts (--max_restarts)\n{trace}".rstrip()
            )
        first, longest = BACK_OFF
        pause = min(longest, first * 2**restarts)
        self.start_at = time.monotonic() + pause
        left = max_restarts - restarts
        text = f"{what}; it starts again in {pause:.1f} s ({left} restarts left)\n{trace}"
        log.warning("%s", text.rstrip())

"""A limit on how long something may take that cannot be told one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

INTERVAL = 0.1  # seconds between looks


class Watchdog:
    """Calls ``on_late`` if ``relax`` does not follow ``expect`` in time.

    gRPC waits for the next message of a stream without a limit. Setting one costs nothing here:
    a thread looks now and then.
    """

    def __init__(self, on_late: Callable[[], object]) -> None:
        self.late = False
        self._on_late = on_late
        self._deadline = float("inf")
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def expect(self, seconds: float) -> None:
        """Begins to wait for ``seconds``."""
        self._deadline = time.monotonic() + seconds

    def relax(self) -> None:
        """Waits for nothing any more."""
        self._deadline = float("inf")

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(INTERVAL):
            if time.monotonic() > self._deadline:
                self.late = True
                self.relax()
                self._on_late()

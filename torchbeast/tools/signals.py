"""Being asked to stop: by Ctrl-C, by a cluster, by a machine that goes away."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_SAME_REQUEST = 0.2  # seconds; a terminal and a launcher both pass one Ctrl-C on


class StopFlag:
    """A flag that SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 raise; the run saves and leaves by itself.

    The handlers do nothing else, so they are safe at any moment. A second signal ends the process
    at once, and its workers die with it. Outside the main thread, where Python allows no
    handlers, the flag is there and ``request`` raises it.

    Use as a context manager; the handlers of before come back at the end.
    """

    def __init__(self) -> None:
        self.signal: str | None = None  # the name of the signal that came
        self._asked_at: float | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run was asked to stop."""
        return self._asked_at is not None

    @property
    def exit_code(self) -> int:
        """What the process returns once it has saved: 0, 130 for Ctrl-C, 143 for the others."""
        if self.signal is None:
            return 0
        return 130 if self.signal == "SIGINT" else 143

    def overdue(self, seconds: float) -> bool:
        """Returns whether the run was asked to stop more than ``seconds`` ago."""
        return self._asked_at is not None and time.monotonic() - self._asked_at > seconds

    def request(self, name: str = "SIGTERM") -> None:
        """Raises the flag as the signal ``name`` would."""
        self.signal, self._asked_at = name, time.monotonic()

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is not None:
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that Python did not install and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.request(signal.Signals(number).name)
        elif self.overdue(_SAME_REQUEST):
            for each in self._before:
                signal.signal(each, signal.SIG_DFL)
            os.kill(os.getpid(), number)

"""Where an update's time goes: a trace of PyTorch's profiler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MAX_UPDATES, MAX_SECONDS = 50, 30.0  # a trace lies in memory until it is written
_log = logging.getLogger("torchbeast")


class Trace:
    """Records what follows the first update, which costs more than others, as a Chrome trace.

    It ends after 50 updates or 30 seconds, or with the context, and is written as
    ``chrome-<time>.trace.gz`` for chrome://tracing or https://ui.perfetto.dev.

    Args:
        folder: where; None records nothing.
        note: tells a person where it lies.
    """

    def __init__(self, folder: Path | None, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = note
        self._profiler: Any = None
        self._updates = 0
        self._until = 0.0

    def updated(self) -> None:
        """Counts an update; begins and ends the trace."""
        if self._folder is None:
            return
        if self._profiler is None:
            self._profiler = torch.profiler.profile()
            self._profiler.start()
            self._until = time.monotonic() + MAX_SECONDS
            return
        self._updates += 1
        if self._updates == MAX_UPDATES or time.monotonic() > self._until:
            self._write()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *error: object) -> None:
        if self._profiler is not None:
            self._write()
        elif self._folder is not None:
            _log.warning("no trace: the run ended with its first update")

    def _write(self) -> None:
        folder, self._folder = self._folder, None
        profiler, self._profiler = self._profiler, None
        assert folder is not None
        path = folder / f"chrome-{time.strftime('%Y%m%d-%H%M%S')}.trace.gz"
        profiler.stop()
        try:
            profiler.export_chrome_trace(str(path))
        except OSError as error:
            _log.warning("training goes on without a trace: %s", error)
            return
        self._note(f"trace of {self._updates} updates in {path}")

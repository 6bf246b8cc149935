"""Where the time goes."""

from __future__ import annotations

from time import perf_counter


class Timings:
    """Seconds per named stage of a loop, by marks at the ends of stages.

    ``mark("env")`` gives the time since the last mark to ``env``; ``start`` gives it to nobody.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def start(self) -> None:
        """Begins a stage without giving the time before it to any."""
        self._last = perf_counter()

    def mark(self, stage: str) -> None:
        """Ends a stage: the time since the last mark is its."""
        now = perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def shares(self) -> dict[str, float]:
        """Returns the fraction of the marked time that each stage took; {} before any mark."""
        total = sum(self.seconds.values())
        if total <= 0:
            return {}
        return {stage: seconds / total for stage, seconds in self.seconds.items()}

"""What a person sees of a run while it goes on."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from torchbeast.tools.memory import rss
from torchbeast.tools.statistics import EpisodeStatistics

_PERIOD = 0.25  # seconds between two pictures
_LINE_PERIOD = 10.0  # seconds between two lines where there is no terminal
_RATE_WINDOW = 10.0  # seconds over which the speed is measured
_CELL = 16  # signs per number and its name
_ASIDE = {"total_loss", "policy_lag", "step", "learning_rate", "grad_norm"}


class Display:
    """A live panel in a terminal; elsewhere one plain line every 10 seconds.

    Args:
        title: what runs, as "impala  PongNoFrameskip-v4  cpu".
        total_steps: where the run ends.
        path: the directory of the run.
        console: where to draw; by default the standard output.
    """

    def __init__(
        self, title: str, total_steps: int, path: Path, console: Console | None = None
    ) -> None:
        self.title = title
        self.total_steps = total_steps
        self.path = path
        self.console = console if console is not None else Console(highlight=False)
        self._live: Live | None = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._period = _PERIOD if self._live else _LINE_PERIOD
        self._next = time.monotonic() + (0 if self._live else 1)
        self._marks: deque[tuple[float, int]] = deque()

    def due(self) -> bool:
        """Returns whether the next ``update`` shows something."""
        return time.monotonic() >= self._next

    def update(
        self,
        steps: int,
        updates: int,
        statistics: EpisodeStatistics,
        metrics: Mapping[str, float],
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """Shows the state of the run; returns at once unless it is due.

        ``shares`` are fractions of time per stage, from ``Timings.shares``.
        """
        now = time.monotonic()
        if not self._marks:
            self._marks.append((now, steps))
        if now < self._next:
            return
        self._next = now + self._period
        self._marks.append((now, steps))
        while len(self._marks) > 2 and self._marks[1][0] < now - _RATE_WINDOW:
            self._marks.popleft()
        if self._live is None:
            self.console.print(self._line(steps, statistics, metrics), soft_wrap=True, markup=False)
            return
        self._live.update(self.panel(steps, updates, statistics, metrics, shares), refresh=True)

    def note(self, text: str) -> None:
        """Prints a line above the panel; signs that cannot be printed are escaped."""
        encoding = self.console.encoding
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        self.console.print(text, markup=False, soft_wrap=True)

    def close(self, text: str | None = None) -> None:
        """Takes the panel away and prints the last block of text."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if text:
            self.console.print(text, markup=False, soft_wrap=True)

    def rate(self) -> float:
        """Returns the steps per second over the last 10 seconds."""
        if len(self._marks) < 2:
            return 0.0
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else 0.0

    def panel(
        self,
        steps: int,
        updates: int,
        statistics: EpisodeStatistics,
        metrics: Mapping[str, float],
        shares: Mapping[str, float] | None = None,
    ) -> Panel:
        """Returns the picture of the run."""
        done = min(1.0, steps / self.total_steps) if self.total_steps else 1.0
        head = Text.assemble(
            (f"{steps:,}", "bold"), (f" / {self.total_steps:,} steps", "dim"), f"   {done:.0%}"
        )
        right = Text.assemble(("left ", "dim"), time_text(self._seconds_left(steps)))
        top = Table.grid(expand=True)
        top.add_column()
        top.add_column(justify="right")
        top.add_row(head, right)
        rows = [
            ("speed", [("steps/s", f"{self.rate():,.0f}"), ("updates", f"{updates:,}")]),
            ("return", _returns(statistics)),
            ("loss", _losses(metrics)),
            ("learner", _learner(metrics)),
            ("time", _stages(shares or {})),
        ]
        return Panel(
            Group(top, ProgressBar(total=1.0, completed=done, width=None), Text(), _grid(rows)),
            title=Text.assemble(("torchbeast", "bold cyan"), f"  {self.title}"),
            title_align="left",
            subtitle=Text(str(self.path), "dim"),
            subtitle_align="left",
            border_style="cyan",
            width=min(self.console.width, 100),
        )

    def _line(self, steps: int, statistics: EpisodeStatistics, metrics: Mapping[str, float]) -> str:
        done = steps / self.total_steps if self.total_steps else 1.0
        loss = f" Loss {number_text(metrics['total_loss'])}." if "total_loss" in metrics else ""
        return (
            f"Steps {steps:d} @ {self.rate():.1f} SPS ({done:.0%}).{loss} "
            f"Return per episode: {number_text(statistics.mean_return)} (last 100 of "
            f"{statistics.episodes}). Left {time_text(self._seconds_left(steps))}."
        )

    def _seconds_left(self, steps: int) -> float:
        rate = self.rate()
        return (self.total_steps - steps) / rate if rate > 0 else math.inf


class Warnings(logging.Handler):
    """Prints warnings of the logger "torchbeast" above the panel while it is installed."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display
        logging.getLogger("torchbeast").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one warning."""
        self._display.note(f"{record.levelname.lower()}: {record.getMessage()}")

    def close(self) -> None:
        """Takes the handler out of the logger."""
        logging.getLogger("torchbeast").removeHandler(self)
        super().close()


def _returns(statistics: EpisodeStatistics) -> list[tuple[str, str]]:
    return [
        ("mean100", number_text(statistics.mean_return)),
        ("last", number_text(statistics.last_return)),
        ("length", number_text(statistics.mean_length)),
        ("episodes", f"{statistics.episodes:,}"),
    ]


def _losses(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    names = [name for name in metrics if name.endswith("loss") and name not in _ASIDE]
    total = [("total", number_text(metrics["total_loss"]))] if "total_loss" in metrics else []
    return total + [(name.removesuffix("_loss"), number_text(metrics[name])) for name in names][:4]


def _learner(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    shown = {"policy_lag": "lag", "grad_norm": "gradient", "learning_rate": "lr"}
    items = [(label, number_text(metrics[n])) for n, label in shown.items() if n in metrics]
    return [*items, ("memory", f"{rss() / 1e9:.2f} GB")]


def _stages(shares: Mapping[str, float]) -> list[tuple[str, str]]:
    largest_first = sorted(shares.items(), key=lambda item: -item[1])
    return [(stage, f"{share:.0%}") for stage, share in largest_first if share >= 0.005]


def _grid(rows: list[tuple[str, list[tuple[str, str]]]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, items in rows:
        if items:
            cells = [Text.assemble((f"{label} ", "dim"), value) for label, value in items]
            for cell in cells:  # columns that stay where they are while numbers change
                cell.pad_right(max(0, _CELL - cell.cell_len))
            grid.add_row(name, Text(" ").join(cells))
    return grid


def number_text(x: float) -> str:
    """Returns ``x`` in few signs; a dash where there is none yet."""
    if math.isnan(x):
        return "-"
    if x == 0 or 1e-3 <= abs(x) < 10:
        return f"{x:.3f}"
    return f"{x:,.1f}" if 10 <= abs(x) < 1e7 else f"{x:.2e}"


def time_text(seconds: float) -> str:
    """Returns ``seconds`` as minutes and hours; a dash where nobody knows."""
    if not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"

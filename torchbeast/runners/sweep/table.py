"""What a person sees of a sweep while it goes on."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from torchbeast.runners.sweep.schedule import Status
from torchbeast.tools.display import number_text, time_text

_PERIOD = 0.5  # seconds between two pictures
_MARGIN = 9  # lines of the terminal that are not rows
_WIDEST = 140
# Columns after the variant: title, justification, and the width of a terminal that has room for it.
_COLUMNS: tuple[tuple[str, JustifyMethod, int], ...] = (
    ("seed", "right", 0),
    ("state", "left", 0),
    ("where", "left", 130),
    ("steps", "right", 90),
    ("", "left", 105),
    ("done", "right", 0),
    ("return", "right", 0),
    ("steps/s", "right", 75),
    ("left", "right", 0),
)
_STYLES = {
    "running": "bold green",
    "failed": "bold red",
    "waiting": "dim",
    "stopped": "yellow",
    "done": "cyan",
}


class SweepTable:
    """A live table in a terminal; elsewhere one plain line per change.

    Args:
        title: what is learned, as "ppo  CartPole-v1".
        where: the folder of the sweep.
        console: where to draw; by default the standard output.
    """

    def __init__(self, title: str, where: str, console: Console | None = None) -> None:
        self.title = title
        self.where = where
        self.console = console if console is not None else Console(highlight=False)
        self._live: Live | None = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._next = 0.0
        self._told: dict[str, tuple[str, str, int]] = {}

    def update(self, statuses: Sequence[Status]) -> None:
        """Shows where the runs are; the picture at most twice a second, changes at once."""
        for status in statuses:
            self._tell(status)
        if self._live is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _PERIOD
            self._live.update(self.panel(statuses), refresh=True)

    def close(self) -> None:
        """Takes the table away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def panel(self, statuses: Sequence[Status]) -> Panel:
        """Returns the picture of the sweep; what does not fit is counted."""
        shown = _most_telling(statuses, max(4, self.console.height - _MARGIN))
        width = min(self.console.width, _WIDEST)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True)
        table.add_column("variant", overflow="fold", ratio=1)
        fits = [width >= least for _, _, least in _COLUMNS]
        for title, justify, _ in itertools.compress(_COLUMNS, fits):
            table.add_column(title, justify=justify, no_wrap=True)
        for status in shown:
            table.add_row(
                status.job.variant.replace(",", " "), *itertools.compress(_cells(status), fits)
            )
        parts: list[RenderableType] = [_summary(statuses), Text(), table]
        if len(shown) < len(statuses):
            parts.append(Text(f"and {len(statuses) - len(shown)} more, waiting or done", "dim"))
        return Panel(
            Group(*parts),
            title=Text.assemble(("torchbeast sweep", "bold cyan"), f"  {self.title}"),
            title_align="left",
            subtitle=Text(self.where, "dim"),
            subtitle_align="left",
            border_style="cyan",
            width=width,
        )

    def _tell(self, status: Status) -> None:
        """Prints a line where a run changed: all changes without a terminal, else failures."""
        now = status.state, status.where, status.tries
        before = self._told.get(status.job.path.name)
        if now == before or (status.state == "running" and not status.where):
            return
        self._told[status.job.path.name] = now
        if before is None and status.state == "waiting" and not status.tries:
            return
        failed = status.tries > (before[2] if before else 0) or status.state == "failed"
        if self._live is None or failed:
            self.console.print(_line(status, failed), markup=False, soft_wrap=True)


def _line(status: Status, failed: bool) -> str:
    words = [f"{status.job.path.name}:", status.state]
    if status.state == "running":
        words.append(f"on {status.where}")
    if status.progress.steps:
        words.append(f"at step {status.progress.steps:,}")
    if not math.isnan(status.progress.mean_return):
        words.append(f"return {number_text(status.progress.mean_return)}")
    if failed or (status.state == "waiting" and status.message):
        again = ", will be tried again" if status.state != "failed" else ""
        words.append(f"({status.message}{again})")
    return " ".join(words)


def _cells(status: Status) -> list[Text | ProgressBar | str]:
    """Returns what stands in each of the columns."""
    progress, total = status.progress, status.job.config.system.total_steps
    done = min(1.0, progress.steps / total)
    running = status.state == "running"
    tries = f" ({status.tries + 1})" if status.tries and running else ""
    return [
        str(status.job.seed),
        Text(status.state + tries, _STYLES[status.state]),
        Text(status.where if running else "", "dim"),
        f"{progress.steps:,}",
        ProgressBar(total=1.0, completed=done, width=10),
        f"{done:.0%}",
        number_text(progress.mean_return),
        f"{progress.rate:,.0f}" if running else "",
        time_text(_seconds_left(status)) if running else "",
    ]


def _summary(statuses: Sequence[Status]) -> Text:
    counts = Counter(status.state for status in statuses)
    line = Text()
    for state in ("done", "running", "waiting", "failed", "stopped"):
        if counts[state]:
            line.append(f"{counts[state]} ", "bold").append(state, _STYLES[state]).append("   ")
    rate = sum(status.progress.rate for status in statuses if status.state == "running")
    left = sum(_steps_left(s) for s in statuses if s.state in ("running", "waiting"))
    line.append(f"{rate:,.0f} ", "bold").append("steps/s   ", "dim")
    return line.append("left ", "dim").append(time_text(left / rate if rate else math.inf))


def _most_telling(statuses: Sequence[Status], room: int) -> list[Status]:
    """Returns ``room`` statuses in their order: running and failed ones before the others."""
    order = {"running": 0, "failed": 1, "stopped": 2, "waiting": 3, "done": 4}
    ranked = sorted(range(len(statuses)), key=lambda i: (order[statuses[i].state], i))
    return [statuses[i] for i in sorted(ranked[:room])]


def _steps_left(status: Status) -> int:
    return max(0, status.job.config.system.total_steps - status.progress.steps)


def _seconds_left(status: Status) -> float:
    rate = status.progress.rate
    return _steps_left(status) / rate if rate > 0 else math.inf

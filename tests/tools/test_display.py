import io
import logging
import time
from pathlib import Path

import pytest
from rich.console import Console

from torchbeast.envs.vector import Episode
from torchbeast.tools import display as module
from torchbeast.tools.display import Display, Warnings
from torchbeast.tools.statistics import EpisodeStatistics

METRICS = {"total_loss": -12.3, "pg_loss": -0.012, "policy_lag": 1.25, "grad_norm": 0.8}


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    return clock


def played() -> EpisodeStatistics:
    statistics = EpisodeStatistics()
    statistics.add([Episode(0, 487.25, 500, False)] * 1204)
    return statistics


def make(terminal: bool, width: int = 100) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system=None)
    return Display("impala  Pong  cpu", 200_000, Path("/logs/x"), console), out


def test_plain_lines_every_ten_seconds_where_there_is_no_terminal(clock):
    display, out = make(terminal=False)
    for i in range(300):
        clock.now = 1000 + i / 10
        display.update(1000 * i, i, played(), METRICS)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[-1] == (
        "Steps 210000 @ 10000.0 SPS (105%). Loss -12.3. Return per episode: 487.2 (last 100 of "
        "1204). Left 0:00."
    )
    assert "\x1b" not in out.getvalue()
    display.note("a [bracket] note")
    display.close("the end\nof it")
    assert out.getvalue().endswith("a [bracket] note\nthe end\nof it\n")


def test_at_most_four_pictures_a_second(clock):
    display, _ = make(terminal=True)
    drawn = 0
    counts = []
    display._live.update = lambda *args, **kwargs: counts.append(clock.now)
    for i in range(1000):
        clock.now = 1000 + i / 100
        drawn += display.due()
        display.update(i, i, played(), METRICS)
    assert drawn == len(counts)
    assert 38 <= len(counts) <= 40
    display.close()


@pytest.mark.parametrize("width", [60, 100])
def test_panel_shows_it_all(clock, width):
    display, _ = make(terminal=True, width=width)
    display.update(28_480, 1, played(), METRICS)
    clock.now += 10
    display.update(148_480, 928, played(), METRICS)
    console = Console(file=io.StringIO(), record=True, width=width)
    console.print(display.panel(148_480, 928, played(), METRICS, {"env": 0.41, "learn": 0.59}))
    text = console.export_text()
    for part in (
        "impala  Pong  cpu",
        "148,480 / 200,000 steps",
        "74%",
        "left 0:04",
        "steps/s 12,000",
        "updates 928",
        "episodes 1,204",
        "mean100 487.2",
        "last 487.2",
        "length 500.0",
        "total -12.3",
        "pg -0.012",
        "lag 1.250",
        "memory",
        "env 41%",
        "/logs/x",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= width
    display.close()


def test_before_anything_has_happened(clock):
    display, out = make(terminal=True)
    display.update(0, 0, EpisodeStatistics(), {})
    display.note("hello")
    display.close()
    assert "mean100 -" in out.getvalue()
    assert "nan" not in out.getvalue()
    assert "hello" in out.getvalue()


def test_speed_of_a_resumed_run_counts_only_its_own_steps(clock):
    display, _ = make(terminal=False)
    display.update(1_000_000, 0, played(), {})
    clock.now += 5
    display.update(1_000_500, 0, played(), {})
    assert display.rate() == 100


def test_a_call_that_is_not_due_is_cheap():
    display, _ = make(terminal=False)
    statistics = played()
    display.update(0, 0, statistics, METRICS)
    start = time.process_time()  # others may take the core meanwhile
    for _ in range(10_000):
        display.update(1, 1, statistics, METRICS)
    assert (time.process_time() - start) / 10_000 < 20e-6


def test_a_warning_that_cannot_be_printed_ends_no_run():
    file = io.TextIOWrapper(io.BytesIO(), "utf-8")
    warnings = Warnings(Display("x", 1, Path("run"), Console(file=file)))
    # Not through the logger: pytest would note it, and could not pass it on.
    warnings.handle(logging.makeLogRecord({"levelname": "WARNING", "msg": "a game: \udcff"}))
    warnings.close()
    file.flush()
    assert file.buffer.getvalue() == b"warning: a game: \\udcff\n"


def test_numbers_and_times():
    shown = [module.number_text(x) for x in (0, 0.5, -9.9996, 123.45, 1e-5, 3e9, float("nan"))]
    assert shown == ["0.000", "0.500", "-10.000", "123.5", "1.00e-05", "3.00e+09", "-"]
    assert [module.time_text(x) for x in (5, 65, 3661, float("inf"))] == [
        "0:05",
        "1:05",
        "1:01:01",
        "-",
    ]

"""The loop of a sweep, with a place that does what the test says."""

from __future__ import annotations

import io
import pathlib

import pytest
from rich.console import Console

from torchbeast.runners.config import RunConfig
from torchbeast.runners.sweep import Job, News, Sweep, SweepTable, conduct
from torchbeast.runners.sweep.progress import Progress
from torchbeast.tools.files import StorageError
from torchbeast.tools.signals import StopFlag

CONFIG = RunConfig()


class Script:
    """A place with two slots; each start of a run ends with the next of its exit codes."""

    def __init__(self, codes: dict[str, list[int | None]]) -> None:
        self.codes = codes
        self.started: list[str] = []
        self.running: dict[str, Job] = {}
        self.most = 0
        self.stopped = self.closed = False

    def free(self) -> bool:
        return len(self.running) < 2

    def start(self, job: Job) -> None:
        if job.variant == "no disk":
            raise StorageError("the disk is full")
        self.started.append(job.variant)
        self.running[job.variant] = job
        self.most = max(self.most, len(self.running))

    def poll(self) -> list[News]:
        news = []
        for name, job in list(self.running.items()):
            code = self.codes[name].pop(0) if self.codes[name] else None
            code = 143 if self.stopped else code
            news.append(News(job, "core 0", Progress(7, 1.0, 2.0), code, "why" if code else ""))
            if code is not None:
                del self.running[name]
        return news

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


def jobs(path: pathlib.Path, names: list[str]) -> list[Job]:
    return [Job(name, {}, 1, CONFIG, path / name) for name in names]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbeast.runners.sweep.schedule.PERIOD", 0.001)
    monkeypatch.setattr("torchbeast.runners.sweep.schedule.HELD", 0.01)


def run(path: pathlib.Path, codes: dict[str, list[int | None]], retries: int = 1) -> Sweep:
    place = Script(codes)
    sweep = Sweep(jobs(path, list(codes)), place, retries)
    conduct(sweep, place, StopFlag(), lambda statuses: None)
    assert place.closed
    assert place.most <= 2
    return sweep


def states(sweep: Sweep) -> list[tuple[str, int]]:
    return [(status.state, status.tries) for status in sweep.statuses]


def test_failures_are_tried_again_so_often(tmp_path: pathlib.Path) -> None:
    codes: dict[str, list[int | None]] = {
        "well": [None, None, 0],
        "once": [3, None, 0],
        "never": [3, -9, 0],
        "bad input": [2, 0],
        "no checkpoint": [7, 0],
        "lost at step 7": [-1, -1, 0],
        "lost there for ever": [-1, -1, -1, -1],
        "no disk": [],
        "last": [0],
    }
    assert states(run(tmp_path, codes)) == [
        ("done", 0),
        ("done", 1),
        ("failed", 2),
        ("failed", 1),
        ("failed", 1),
        ("done", 1),
        ("failed", 2),
        ("failed", 0),
        ("done", 0),
    ]
    assert codes["never"] == [0]


def test_a_run_that_another_process_works_on_is_waited_for(tmp_path: pathlib.Path) -> None:
    assert states(run(tmp_path, {"held": [6, 6, 6, 6, 0]}, retries=0)) == [("done", 0)]


def test_stop_lets_runs_save_and_starts_no_other(tmp_path: pathlib.Path) -> None:
    place = Script({name: [] for name in "abcd"})
    sweep = Sweep(jobs(tmp_path, list("abcd")), place, 3)
    stop = StopFlag()
    looks = []

    def show(statuses: object) -> None:
        looks.append(statuses)
        if len(looks) == 3:
            stop.request("SIGINT")

    conduct(sweep, place, stop, show)
    assert place.started == ["a", "b"]
    assert {state for state, _ in states(sweep)} == {"stopped"}


def test_lines_without_a_terminal_and_a_table_with_one(tmp_path: pathlib.Path) -> None:
    place = Script({"good": [None, 0], "bad": [3, 3]})
    sweep = Sweep(jobs(tmp_path, ["good", "bad"]), place, 1)
    lines, picture = io.StringIO(), io.StringIO()
    plain = SweepTable("t", "folder", Console(file=lines, width=200))
    drawn = SweepTable("t", "folder", Console(file=picture, width=140, force_terminal=True))

    def show(statuses: list) -> None:
        plain.update(statuses)
        drawn.update(statuses)
        drawn._next = 0.0

    conduct(sweep, place, StopFlag(), show)
    drawn.close()
    assert lines.getvalue().splitlines() == [
        "good: running on core 0 at step 7 return 1.000",
        "bad: waiting at step 7 return 1.000 (why, will be tried again)",
        "good: done at step 7 return 1.000",
        "bad: failed at step 7 return 1.000 (why)",
    ]
    for word in ("running", "steps/s", "core 0", "failed", "good", "why"):
        assert word in picture.getvalue()


def test_a_table_larger_than_the_terminal_counts_the_rest(tmp_path: pathlib.Path) -> None:
    sweep = Sweep(jobs(tmp_path, [f"v{i}" for i in range(30)]), Script({}), 0)
    sweep.statuses[25].state = "failed"
    out = io.StringIO()
    console = Console(file=out, width=100, height=16, force_terminal=True)
    table = SweepTable("t", "folder", console)
    console.print(table.panel(sweep.statuses))
    table.close()
    assert "v25" in out.getvalue()
    assert "v29" not in out.getvalue()
    assert "and 23 more" in out.getvalue()

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from torchbeast.envs.vector import Episode
from torchbeast.tools import tables
from torchbeast.tools.logs import RunLog, read_curve, seconds_run


def rows(path: Path) -> list[list[str]]:
    text = path.read_text()
    assert text.endswith("\n") or text == ""
    return list(csv.reader(text.splitlines()))


def by_name(path: Path) -> list[dict[str, str]]:
    header, *body = rows(path)
    header[0] = header[0].removeprefix("# ")
    assert all(len(row) == len(header) for row in body)
    return [dict(zip(header, row, strict=True)) for row in body]


def log(path: Path, resume_step: int = 0) -> RunLog:
    return RunLog(path, resume_step, tensorboard=False)


def test_header_and_schema_are_the_ancestors(tmp_path):
    run = log(tmp_path)
    row = {"step": 640, "total_loss": 0.5, "mean_episode_return": float("nan")}
    run.log(row)
    assert row.keys() == {"step", "total_loss", "mean_episode_return"}  # not changed, as once
    run.log(row | {"step": 1280, "total_loss": np.float32(1.25)})
    header = "_tick,_time,step,total_loss,mean_episode_return"
    assert (tmp_path / "logs.csv").read_text().splitlines()[0] == "# " + header  # before close
    assert (tmp_path / "fields.csv").read_text().splitlines()[-1] == header
    first, second = by_name(tmp_path / "logs.csv")
    assert (first["_tick"], first["step"], first["mean_episode_return"]) == ("0", "640", "nan")
    assert (second["_tick"], second["total_loss"]) == ("1", "1.25")
    assert np.loadtxt(tmp_path / "logs.csv", delimiter=",").shape == (2, 5)


def test_a_new_column_never_makes_the_file_ragged(tmp_path):
    run = log(tmp_path)
    run.log({"step": 1, "a": 1})
    run.log({"step": 2, "b": 2})
    run.log({"step": 3, "a": 3, "b": 3})
    table = by_name(tmp_path / "logs.csv")
    assert [(row["step"], row["a"], row["b"]) for row in table] == [
        ("1", "1", "nan"),
        ("2", "nan", "2"),
        ("3", "3", "3"),
    ]
    assert rows(tmp_path / "fields.csv")[-1] == ["_tick", "_time", "step", "a", "b"]


def test_steps_only_grow(tmp_path):
    run = log(tmp_path)
    run.log({"step": 5, "a": 1})
    with pytest.raises(ValueError, match="after 5, got 4"):
        run.log({"step": 4})
    with pytest.raises(ValueError, match="'step'"):
        run.log({"a": 1})
    with pytest.raises(ValueError, match="column 'a'"):
        run.log({"step": 6, "a": "x"})


def test_a_step_has_one_row_which_takes_what_comes_later(tmp_path):
    run = log(tmp_path)
    run.log({"step": 5, "a": 1, "b": 2})
    run.log({"step": 9, "a": 1, "b": 2})
    run.log({"step": 9, "a": float("nan"), "b": 3, "eval_return": 4.5})  # at the end of a run
    run.log({"step": 12, "a": 7})
    table = [
        tuple(row[name] for name in ("_tick", "step", "a", "b", "eval_return"))
        for row in by_name(tmp_path / "logs.csv")
    ]
    assert table == [
        ("0", "5", "1", "2", "nan"),
        ("1", "9", "1", "3", "4.5"),
        ("2", "12", "7", "nan", "nan"),
    ]


def test_resume_cuts_what_came_after(tmp_path, caplog):
    run = log(tmp_path)
    for step in range(10, 60, 10):
        run.log({"step": step, "a": step})
        run.episodes([Episode(0, step, 3, False)] * 2, step)
    run.close()
    with (tmp_path / "logs.csv").open("a") as file:
        file.write("5,17")  # killed within a line
    with caplog.at_level(logging.INFO, "torchbeast"):
        run = log(tmp_path, resume_step=30)
    assert "cut 2 rows after step 30" in caplog.text
    run.log({"step": 35, "a": 1, "new": 1})
    run.episodes([Episode(1, 0.5, 4, True)], 35)
    table = by_name(tmp_path / "logs.csv")
    assert [int(row["step"]) for row in table] == [10, 20, 30, 35]
    assert [int(row["_tick"]) for row in table] == [0, 1, 2, 3]
    assert (tmp_path / "logs.csv").read_text().count("_tick") == 1
    games = by_name(tmp_path / "episodes.csv")
    assert [int(row["step"]) for row in games] == [10, 10, 20, 20, 30, 30, 35]
    assert games[-1]["truncated"] == "1"
    assert (tmp_path / "episodes.csv").read_text().count("return") == 1


def test_resume_at_nothing_begins_anew(tmp_path):
    run = log(tmp_path)
    run.log({"step": 10, "a": 1})
    run.close()
    run = log(tmp_path)
    run.log({"step": 3, "b": 1})
    assert rows(tmp_path / "logs.csv")[0] == ["# _tick", "_time", "step", "b"]
    assert rows(tmp_path / "fields.csv") == [["_tick", "_time", "step", "b"]]
    assert [row["_tick"] for row in by_name(tmp_path / "logs.csv")] == ["0"]


def test_a_full_disk_costs_rows_never_the_run(tmp_path, monkeypatch, caplog):
    run = log(tmp_path)
    run.log({"step": 1, "a": 1})
    real = os.write

    def half_then_full(fd, data):
        half_then_full.calls += 1
        if half_then_full.calls % 2:
            return real(fd, bytes(data)[: len(data) // 2])
        raise OSError(28, "No space left on device")

    half_then_full.calls = 0
    with caplog.at_level(logging.WARNING, "torchbeast"):
        monkeypatch.setattr(tables.os, "write", half_then_full)
        run.log({"step": 2, "a": 2})
        run.log({"step": 3, "a": 3, "wide": 3})
        run.episodes([Episode(0, 1.0, 2, False)], 3)
    monkeypatch.undo()
    assert run.dropped == 3
    assert len([r for r in caplog.records if "lost" in r.message]) == 1
    run.log({"step": 4, "a": 4, "wide": 4})
    run.episodes([Episode(0, 2.0, 2, False)], 4)
    assert [row["step"] for row in by_name(tmp_path / "logs.csv")] == ["1", "4"]
    assert [row["return"] for row in by_name(tmp_path / "episodes.csv")] == ["2"]
    assert not list(tmp_path.glob(".*tmp"))


def test_half_a_line_is_repaired_when_cutting_it_failed_too(tmp_path, monkeypatch):
    run = log(tmp_path)
    run.log({"step": 1, "a": 1})
    real = os.write

    def full(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tables.os, "ftruncate", full)
    monkeypatch.setattr(
        tables.os, "write", lambda fd, data: full() if len(data) < 9 else real(fd, bytes(data)[:9])
    )
    for step in (2, 3):
        run.log({"step": step, "a": 7})
    monkeypatch.undo()
    run.log({"step": 4, "a": 4})
    assert [row["step"] for row in by_name(tmp_path / "logs.csv")] == ["1", "4"]


KILLED = """
import sys
from pathlib import Path
from torchbeast.tools.logs import RunLog
run = RunLog(Path(sys.argv[1]), tensorboard=False)
for step in range(10**9):
    run.log({"step": step, **{f"c{i}": i for i in range(step // 20 % 50)}})
    if step == 100:
        print("go", flush=True)
"""


def test_killed_while_writing(tmp_path):
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert child.stdout.readline() == b"go\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    table = by_name(tmp_path / "logs.csv")
    assert [int(row["step"]) for row in table] == list(range(len(table)))
    assert len(table) > 100
    schema = [name.removeprefix("# ") for name in rows(tmp_path / "logs.csv")[0]]
    run = log(tmp_path, 50)
    assert rows(tmp_path / "fields.csv")[-1] == schema
    run.log({"step": 51})
    assert [int(row["step"]) for row in by_name(tmp_path / "logs.csv")] == list(range(52))


def test_tensorboard_events(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = RunLog(tmp_path)
    for step in (10, 20, 30):
        run.log({"step": step, "a": step / 10, "b": float("nan")})
    run.close()
    run = RunLog(tmp_path, resume_step=20)
    run.log({"step": 25, "a": 9.0})
    run.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("a")] == [(10, 1.0), (20, 2.0), (25, 9.0)]
    assert "b" not in events.Tags()["scalars"]


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = RunLog(tmp_path)
    run.log({"step": 1, "a": 1})
    run.close()
    assert not (tmp_path / "tb").exists()


def test_tensorboard_that_fails_does_not_stop_the_run(tmp_path, caplog):
    run = log(tmp_path)

    class Broken:
        def add_scalar(self, *args):
            raise OSError(28, "No space left on device")

    run._events = Broken()
    run.log({"step": 1, "a": 1})
    run.log({"step": 2, "a": 1})
    assert len(by_name(tmp_path / "logs.csv")) == 2
    assert run.dropped == 1


def test_read_curve(tmp_path):
    run = log(tmp_path)
    with pytest.raises(ValueError, match="finished episodes"):
        read_curve(tmp_path)
    run.episodes([Episode(0, 1.5, 7, False), Episode(1, -2.0, 9, True)], 64)
    curve = read_curve(tmp_path)
    assert curve.steps.tolist() == [64, 64]
    assert curve.returns.tolist() == [1.5, -2.0]
    assert curve.lengths.tolist() == [7, 9]


def test_seconds_in_which_a_run_ran(tmp_path, monkeypatch):
    """From each start to the last row; not those between, however short; one row is enough."""
    assert seconds_run(tmp_path) == 0
    run, start = log(tmp_path), 1_800_000_000
    for step, seconds in enumerate([300, 600, 607, 620]):
        monkeypatch.setattr("time.time", lambda at=start + seconds: at)
        run.log({"step": step})
    run.close()
    monkeypatch.undo()
    assert seconds_run(tmp_path) == 320
    dates = [
        time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(start + at))
        for at in (0, 605, 618, 900)
    ]
    meta = {"date_start": dates[0], "resumed": dates[1:]}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert seconds_run(tmp_path) == 600 + 2 + 2
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"date_start": None}))
    assert seconds_run(tmp_path) == 320


def test_read_curve_of_the_ancestor(tmp_path):
    (tmp_path / "fields.csv").write_text(
        "_tick,_time,step\n_tick,_time,step,episode_returns,mean_episode_return\n"
    )
    (tmp_path / "logs.csv").write_text(
        '# _tick,_time,step\n0,1.0,0\n1,2.0,640,"(1.0, 3.0)",2.0\n2,3.0,1280,(),nan\n3,4.'
    )
    curve = read_curve(tmp_path)
    assert curve.steps.tolist() == [640]
    assert curve.returns.tolist() == [2.0]

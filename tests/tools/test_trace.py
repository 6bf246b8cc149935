"""Traces of the profiler: bounded, and there when something goes wrong."""

from __future__ import annotations

import gzip
import json
import pathlib

import pytest
import torch

from torchbeast.tools import trace
from torchbeast.tools.trace import Trace


def updates(trace: Trace, count: int) -> None:
    for _ in range(count):
        torch.ones(3).cumsum(0)
        trace.updated()


def events(folder: pathlib.Path) -> list[str]:
    [path] = folder.iterdir()
    assert path.name.startswith("chrome-")
    assert path.name.endswith(".trace.gz")
    return [e.get("name", "") for e in json.loads(gzip.open(path).read())["traceEvents"]]


def test_it_records_what_follows_the_first_update_until_it_has_enough(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "MAX_UPDATES", 3)
    notes: list[str] = []
    with Trace(tmp_path, notes.append) as tracing:
        updates(tracing, 4)
        assert len(notes) == 1  # written at once, not at the end
        updates(tracing, 4)
    assert events(tmp_path).count("aten::cumsum") == 3
    assert notes == [f"trace of 3 updates in {next(tmp_path.iterdir())}"]


def test_it_is_bounded_in_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_SECONDS", 0.0)
    with Trace(tmp_path, lambda text: None) as tracing:
        updates(tracing, 3)
    assert events(tmp_path).count("aten::cumsum") == 1


def test_a_run_that_fails_leaves_its_trace(tmp_path: pathlib.Path) -> None:
    def fail() -> None:
        with Trace(tmp_path, lambda text: None) as tracing:
            updates(tracing, 3)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert events(tmp_path).count("aten::cumsum") == 2


def test_nothing_is_written_unless_asked(tmp_path: pathlib.Path) -> None:
    with Trace(None, lambda text: None) as tracing:
        updates(tracing, 3)
    assert not list(tmp_path.iterdir())

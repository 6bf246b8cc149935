"""How far a run is, as its directory says."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import NamedTuple

from torchbeast.runners.config import RunConfig
from torchbeast.tools.run_directory import read_meta

_TAIL = 1 << 15  # bytes of logs.csv that are read: rows of the last half minute, and more
_RATE_WINDOW = 30.0  # seconds over which the speed is measured


class Progress(NamedTuple):
    """Where a run is."""

    steps: int = 0
    mean_return: float = math.nan  # of the last 100 games
    rate: float = 0.0  # steps per second


def read_progress(run: Path) -> Progress:
    """Returns where the run in ``run`` is; reads only the end of its log."""
    rows = _last_rows(run)
    if not rows:
        return Progress()
    last = rows[-1]
    recent = [row for row in rows if row["_time"] >= last["_time"] - _RATE_WINDOW]
    seconds = last["_time"] - recent[0]["_time"]
    rate = (last["step"] - recent[0]["step"]) / seconds if seconds > 0 else 0.0
    return Progress(int(last["step"]), last.get("mean_return_100", math.nan), rate)


def is_finished(run: Path, config: RunConfig) -> bool:
    """Returns whether the run did all its steps, was evaluated if asked, and ended well."""
    rows = _last_rows(run)
    if not rows or not read_meta(run).get("successful"):
        return False
    evaluated = math.isfinite(rows[-1].get("eval_return", math.nan))
    all_steps = rows[-1]["step"] >= config.system.total_steps
    return all_steps and (evaluated or not config.output.eval_episodes)


def _last_rows(run: Path) -> list[dict[str, float]]:
    try:
        fields = (run / "fields.csv").read_text().splitlines()[-1].split(",")
        with (run / "logs.csv").open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL)
            file.seek(start)
            text = file.read().decode(errors="replace")
    except (OSError, IndexError):
        return []  # it has not begun
    lines = text[: text.rfind("\n") + 1].splitlines()[1 if start else 0 :]
    rows = []
    for row in csv.reader(line for line in lines if not line.startswith("#")):
        try:
            rows.append({name: float(x) for name, x in zip(fields, row, strict=True)})
        except ValueError:
            continue  # of before a column was added
    return rows

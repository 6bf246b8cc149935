"""What a sweep came to: results.csv, summary.csv and curves.png in its folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchbeast.runners.sweep.place import Job
from torchbeast.runners.sweep.schedule import Status
from torchbeast.tools.files import StorageError, write_atomically
from torchbeast.tools.logs import read_curve, seconds_run
from torchbeast.tools.plot import bootstrap_interval, plot_groups
from torchbeast.tools.tables import csv_line, read_table


class Outcome(NamedTuple):
    """What one run came to."""

    job: Job
    state: str
    steps: int
    mean_return: float  # of the last 100 games; nan without any
    evaluation: float  # mean return of the last evaluation; nan if there was none
    seconds: float  # in which it ran, from each start to the last row


class Summary(NamedTuple):
    """What a variant came to over its seeds; bounds hold 95% of bootstrap means, nan of one run."""

    variant: str
    runs: int
    mean_return: float
    low: float
    high: float
    evaluation: float
    evaluation_low: float
    evaluation_high: float


def write_results(folder: Path, statuses: Sequence[Status]) -> list[Summary]:
    """Returns what each variant came to, best first, after writing the tables to ``folder``.

    Raises:
        StorageError: the disk does not take them.
    """
    outcomes = [_outcome(status) for status in statuses]
    names = list(dict.fromkeys(name for o in outcomes for name in o.job.settings))
    head = ["variant", "seed", *names, "state", "steps", "mean_return", "evaluation", "seconds"]
    lines = [csv_line([*head, "path"])]
    for o in outcomes:
        settings = [o.job.settings.get(name, "") for name in names]
        numbers = [o.steps, f"{o.mean_return:.6g}", f"{o.evaluation:.6g}", f"{o.seconds:.1f}"]
        lines.append(
            csv_line([o.job.variant, o.job.seed, *settings, o.state, *numbers, o.job.path])
        )
    summaries = _summaries(outcomes)
    table = [csv_line(Summary._fields)]
    table += [csv_line([s[0], s[1], *(f"{x:.6g}" for x in s[2:])]) for s in summaries]
    try:
        write_atomically(folder / "results.csv", "".join(lines).encode())
        write_atomically(folder / "summary.csv", "".join(table).encode())
    except OSError as error:
        raise StorageError(f"expected to write results to {folder}, got: {error}") from error
    return summaries


def plot_variants(folder: Path, statuses: Sequence[Status], title: str) -> Path:
    """Returns the picture written: a curve for each variant, with an interval over its seeds.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no run has a finished game.
    """
    groups: dict[str, list[Path]] = {}
    for status in statuses:
        if _has_games(status.job.path):
            groups.setdefault(status.job.variant, []).append(status.job.path)
    return plot_groups(groups, folder / "curves.png", title)


def _outcome(status: Status) -> Outcome:
    path = status.job.path
    fields, rows = read_table(path / "logs.csv", path / "fields.csv")
    columns = dict(zip(fields, np.array(rows, float).T, strict=True)) if rows else {}
    nothing = np.empty(0)
    returns = columns.get("mean_return_100", nothing)
    evaluations = columns.get("eval_return", nothing)
    evaluations = evaluations[np.isfinite(evaluations)]
    return Outcome(
        status.job,
        status.state,
        int(columns["step"][-1]) if rows else 0,
        float(returns[-1]) if len(returns) else math.nan,
        float(evaluations[-1]) if len(evaluations) else math.nan,
        seconds_run(path),
    )


def _summaries(outcomes: Sequence[Outcome]) -> list[Summary]:
    """Returns what the finished runs of each variant came to, the best return first."""
    by_variant: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_variant.setdefault(outcome.job.variant, [])
        if outcome.state == "done":
            by_variant[outcome.job.variant].append(outcome)
    found = [
        Summary(
            name,
            len(group),
            *_interval([o.mean_return for o in group]),
            *_interval([o.evaluation for o in group]),
        )
        for name, group in by_variant.items()
    ]
    return sorted(found, key=lambda s: -math.inf if math.isnan(s[2]) else s[2], reverse=True)


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns mean, lower and upper bound over runs."""
    known = np.array([x for x in values if math.isfinite(x)])
    if len(known) < 2:
        return (float(known[0]) if len(known) else math.nan), math.nan, math.nan
    low, high = bootstrap_interval(known[:, None])
    return float(known.mean()), float(low[0]), float(high[0])


def _has_games(run: Path) -> bool:
    try:
        return len(read_curve(run).steps) > 0
    except ValueError:
        return False

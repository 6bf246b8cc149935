"""The numbers of a run: logs.csv, fields.csv, episodes.csv and TensorBoard events."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchbeast.envs.vector import Episode
from torchbeast.tools.files import StorageError
from torchbeast.tools.run_directory import read_meta
from torchbeast.tools.tables import LineFile, csv_line, read_table, rows_until, table_text

_FIRST_FIELDS = ["_tick", "_time"]  # as the ancestor's
_EPISODE_FIELDS = ["step", "time", "env", "return", "length", "truncated"]
_log = logging.getLogger("torchbeast")


class Curve(NamedTuple):
    """The finished games of a run, in the order in which they ended."""

    steps: np.ndarray[Any, Any]  # [N] i64, environment steps of the run when the game was counted
    returns: np.ndarray[Any, Any]  # [N] f64
    lengths: np.ndarray[Any, Any]  # [N] f64, nan where unknown


class RunLog:
    """Writes rows of numbers to ``logs.csv`` and TensorBoard, and games to ``episodes.csv``.

    Files grow by whole lines that are handed to the kernel at once. A full disk costs rows, which
    ``dropped`` counts, never the run. A new column rewrites the file with a wider header.

    Args:
        path: the directory of the run.
        resume_step: rows after this step are cut off: they tell of updates that were lost.
        tensorboard: also write events to ``<path>/tb`` where TensorBoard is installed.

    Raises:
        StorageError: the files cannot be opened.
    """

    def __init__(self, path: Path, resume_step: int = 0, tensorboard: bool = True) -> None:
        self._warned = False
        self._lost_events = 0
        try:
            fields, rows = read_table(path / "logs.csv", path / "fields.csv")
            kept = rows_until(fields, rows, resume_step)
            games_fields, games = read_table(path / "episodes.csv")
            kept_games = rows_until(games_fields, games, resume_step, increasing=False)
            self._logs = LineFile(path / "logs.csv")
            self._fields_file = LineFile(path / "fields.csv")
            self._episodes = LineFile(path / "episodes.csv")
            _put_back(self._logs, table_text("# ", fields, kept) if kept else "")
            _put_back(self._fields_file, csv_line(fields) if kept else "")
            _put_back(self._episodes, table_text("", _EPISODE_FIELDS, kept_games))
        except OSError as error:
            raise StorageError(
                f"expected to write logs to {path}, got: {error}; make room or change --savedir"
            ) from error
        if cut := len(rows) - len(kept):
            _log.info("cut %d rows after step %d from logs.csv", cut, resume_step)
        self._fields = fields if kept else list(_FIRST_FIELDS)
        self._tick = int(float(kept[-1][0])) + 1 if kept else 0
        self._last_step = int(float(kept[-1][fields.index("step")])) if kept else -1
        self._events = _open_events(path / "tb", resume_step) if tensorboard else None

    @property
    def dropped(self) -> int:
        """The rows that the disk did not take."""
        files = (self._logs, self._fields_file, self._episodes)
        return sum(file.dropped for file in files) + self._lost_events

    def log(self, row: Mapping[str, Any]) -> None:
        """Writes a row of numbers; ``step`` must be among them.

        A step has one row: what is logged again for the last step (as an evaluation at the end)
        is put into the row that is there.

        Raises:
            ValueError: there is no ``step``, or it is smaller than that of the last row.
        """
        step = self._checked_step(row)
        values = {name: _number(name, value) for name, value in row.items()}
        values |= {"_tick": str(self._tick), "_time": repr(time.time())}
        missing = [name for name in values if name not in self._fields]
        if missing and not self._widen(missing):
            self._warn()
            return
        if step == self._last_step:
            self._amend(values)
        elif self._logs.append(csv_line(values.get(name, "nan") for name in self._fields)):
            self._tick += 1
            self._last_step = step
        self._write_events(row, step)
        self._warn()

    def episodes(self, episodes: list[Episode], step: int) -> None:
        """Writes one line for each game that ended by ``step``."""
        if not episodes:
            return
        now = f"{time.time():.3f}"
        lines = (
            csv_line([step, now, e.env, f"{e.episode_return:.8g}", e.length, int(e.truncated)])
            for e in episodes
        )
        self._episodes.append("".join(lines))
        self._warn()

    def close(self) -> None:
        """Ends the files."""
        for file in (self._logs, self._fields_file, self._episodes):
            file.close()
        if self._events is not None:
            try:
                self._events.close()
            except Exception as error:
                _log.warning("the last TensorBoard events are lost: %s", error)
            self._events = None

    def _checked_step(self, row: Mapping[str, Any]) -> int:
        if "step" not in row:
            raise ValueError(f"expected a column 'step' in a log row, got {sorted(row)}")
        step = int(row["step"])
        if step < self._last_step:
            raise ValueError(
                f"expected a step after {self._last_step}, got {step}; open the log of a resumed "
                f"run with resume_step"
            )
        return step

    def _widen(self, missing: list[str]) -> bool:
        """Returns whether the file has the new columns: rows so far read nan there."""
        fields = self._fields + missing
        if not self._logs.rewrite(table_text("# ", fields, self._logs.rows())):
            return False
        self._fields = fields
        self._fields_file.append(csv_line(fields))
        return True

    def _amend(self, values: dict[str, str]) -> None:
        """Puts the values that are known into the last row, which keeps its tick."""
        rows = self._logs.rows()
        known = {name: value for name, value in values.items() if value != "nan"} | {
            "_tick": rows[-1][0]
        }
        rows[-1] = [
            known.get(name, before) for name, before in zip(self._fields, rows[-1], strict=True)
        ]
        self._logs.rewrite(table_text("# ", self._fields, rows))

    def _write_events(self, row: Mapping[str, Any], step: int) -> None:
        if self._events is None:
            return
        try:
            for name, value in row.items():
                if name != "step" and math.isfinite(float(value)):
                    self._events.add_scalar(name, float(value), step)
        except Exception as error:  # its writer thread hands on whatever the disk said
            self._lost_events += 1
            self._events = None
            _log.warning("no TensorBoard events from step %d on: %s", step, error)

    def _warn(self) -> None:
        if self.dropped and not self._warned:
            self._warned = True
            _log.warning("rows of the logs are lost, training goes on; is the disk full?")


def read_curve(run: Path) -> Curve:
    """Returns the finished games of a run; of an ancestor's run, its mean returns per row.

    Raises:
        ValueError: the run has no such log.
    """
    fields, rows = read_table(run / "episodes.csv")
    if rows:
        columns = [_column(fields, rows, name) for name in ("step", "return", "length")]
        return Curve(columns[0].astype(np.int64), *columns[1:])
    fields, rows = read_table(run / "logs.csv", run / "fields.csv")
    if rows and "step" in fields and "mean_episode_return" in fields:
        steps, returns = (_column(fields, rows, n) for n in ("step", "mean_episode_return"))
        seen = np.isfinite(returns) & np.isfinite(steps)
        if seen.any():
            lengths = np.full(int(seen.sum()), np.nan)
            return Curve(steps[seen].astype(np.int64), returns[seen], lengths)
    raise ValueError(
        f"expected finished episodes in {run / 'episodes.csv'}, got none; "
        f"let the run play longer, or choose another"
    )


def _put_back(file: LineFile, text: str) -> None:
    """Makes ``text`` all that is in the file, where it is not already."""
    if file.path.read_bytes() != text.encode() and not file.rewrite(text):
        raise OSError(f"{file.path} cannot be written")


def _open_events(path: Path, resume_step: int) -> Any:
    """Returns a writer of TensorBoard events, None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        # Events after the step that is resumed are hidden: they tell of updates that were lost.
        return SummaryWriter(str(path), purge_step=resume_step + 1)
    except OSError as error:
        _log.warning("no TensorBoard events: %s", error)
        return None


def seconds_run(run: Path) -> float:
    """Returns the seconds in which a run ran: from each of its starts to the last row after it.

    Where ``meta.json`` does not tell the starts, from the first row to the last.
    """
    fields, rows = read_table(run / "logs.csv", run / "fields.csv")
    if not rows:
        return 0.0
    times = np.array([float(row[fields.index("_time")]) for row in rows])
    meta = read_meta(run)
    try:
        told = [meta["date_start"], *meta["resumed"]]
        starts = [datetime.fromisoformat(date).timestamp() for date in told]
    except (KeyError, TypeError, ValueError):
        starts = [times[0]]
    ends = zip(starts, [*starts[1:], math.inf], strict=True)
    return sum(float(times[times < end].max(initial=start)) - start for start, end in ends)


def _number(name: str, value: Any) -> str:
    """Returns ``value`` as it stands in a row."""
    if isinstance(value, bool | int):
        return str(int(value))
    try:
        return f"{float(value):.8g}"
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a number in column '{name}', got {value!r}") from error


def _column(fields: list[str], rows: list[list[str]], name: str) -> np.ndarray[Any, Any]:
    index = fields.index(name)
    return np.array([float(row[index]) for row in rows])

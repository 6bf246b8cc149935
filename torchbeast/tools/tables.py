"""Tables in text: files of comma-separated values that grow by whole lines."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torchbeast.tools.files import write_all, write_atomically


class LineFile:
    """A file that grows by whole lines; what the disk does not take is dropped and counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped = 0
        self._broken = False  # half a line may stand at the end
        self._open()

    def append(self, text: str) -> bool:
        """Returns whether the lines are written; if not, nothing of them is."""
        try:
            if self._broken:
                os.ftruncate(self._fd, self._size)
                self._broken = False
            data = text.encode()
            write_all(self._fd, data)
            self._size += len(data)
            return True
        except OSError:
            self.dropped += 1
            self._broken = True
            try:
                os.ftruncate(self._fd, self._size)  # no half lines
                self._broken = False
            except OSError:
                pass
            return False

    def rows(self) -> list[list[str]]:
        """Returns the rows that are written."""
        return read_table(self.path)[1]

    def rewrite(self, text: str) -> bool:
        """Returns whether the file now holds ``text``; if not, it is as it was."""
        try:
            write_atomically(self.path, text.encode())
            old = self._fd
            self._open()
            self._broken = False
            os.close(old)
            return True
        except OSError:
            self.dropped += 1
            return False

    def close(self) -> None:
        """Ends the file."""
        os.close(self._fd)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self._fd = os.open(self.path, flags, 0o644)
        self._size = os.fstat(self._fd).st_size


def csv_line(values: Iterable[Any]) -> str:
    """Returns one line of values; text with commas in it is quoted."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def table_text(mark: str, fields: list[str], rows: list[list[str]]) -> str:
    """Returns a header, begun by ``mark``, and rows; what a row lacks reads nan."""
    padded = (row + ["nan"] * (len(fields) - len(row)) for row in rows)
    return mark + csv_line(fields) + "".join(map(csv_line, padded))


def read_table(path: Path, schema: Path | None = None) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table, ([], []) where there is none.

    A last line that a kill left half is not a row. The last line of ``schema`` names the columns
    where it knows more of them (the ancestor's header never grew), and short rows are padded.
    """
    if not path.exists():
        return [], []
    text = path.read_text(errors="replace")
    text = text[: text.rfind("\n") + 1]
    lines = list(csv.reader(io.StringIO(text.removeprefix("# "))))
    if not lines:
        return [], []
    fields, rows = lines[0], [line for line in lines[1:] if line]
    if schema is not None and schema.exists():
        known = [line for line in csv.reader(schema.open(errors="replace")) if line]
        if known and known[-1][: len(fields)] == fields:
            fields = known[-1]
    width = len(fields)
    return fields, [row + ["nan"] * (width - len(row)) for row in rows if len(row) <= width]


def rows_until(
    fields: list[str], rows: list[list[str]], step: int, increasing: bool = True
) -> list[list[str]]:
    """Returns the rows up to ``step``; ``increasing``: each after the step of the one before."""
    if "step" not in fields:
        return []
    index = fields.index("step")
    kept: list[list[str]] = []
    last = -1
    for row in rows:
        try:
            at = int(float(row[index]))
        except (ValueError, OverflowError):
            continue
        if at <= step and (at > last or not increasing):
            kept.append(row)
            last = at
    return kept

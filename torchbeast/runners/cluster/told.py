"""What Ray says when something failed, for a person."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[\d;]*m")


def full_text(error: BaseException) -> str:
    """Returns all that Ray says of an error, with the other side's traceback, uncoloured."""
    return _COLOURS.sub("", str(error)).strip()


def reason(error: BaseException) -> str:
    """Returns the line of an error of Ray's that says why: no traceback, no colours, no advice."""
    cause = getattr(error, "cause", None)  # what was raised in a task, in its own words
    shown = error if cause is None else cause
    lines = full_text(shown).splitlines() or [type(shown).__name__]
    if any(line.startswith('  File "') for line in lines):
        return lines[-1]
    return lines[0] if cause is not None else lines[0].partition(". ")[0].rstrip(".")

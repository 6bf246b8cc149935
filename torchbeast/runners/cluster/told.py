"""What Ray says when something failed, for a person."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def full_text(error: BaseException) -> str:
    """Returns all that Ray says of an error, with the other side's traceback, uncoloured."""
    return _COLOURS.sub("", str(error)).strip()


def reason(error: BaseException) -> str:
    """Returns why something failed, in a line: of what Ray says, the last one."""
    cause = getattr(error, "cause", None)
    lines = full_text(cause if isinstance(cause, BaseException) else error).splitlines()
    return lines[-1].strip() if lines else type(error).__name__

"""Schedules: a number as a function of environment steps, so that it survives a resume.

All have one signature, so that one can take the place of another.
"""

from __future__ import annotations


def linear(steps: float, total_steps: float, start: float, end: float = 0.0) -> float:
    """Returns the value on the line from start at 0 steps to end at total_steps and after."""
    if total_steps <= 0:
        raise ValueError(f"expected total_steps above 0, got {total_steps}")
    fraction = min(max(steps / total_steps, 0.0), 1.0)
    return (1.0 - fraction) * start + fraction * end


def constant(steps: float, total_steps: float, start: float, end: float = 0.0) -> float:
    """Returns start, whatever the steps."""
    return start


SCHEDULES = {"linear": linear, "constant": constant}  # by the name that a setting has

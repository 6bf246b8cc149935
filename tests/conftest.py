"""Options of the test suite, and what of it may run side by side."""

from __future__ import annotations

import pathlib

import pytest

# Tests that kill processes, and wait for others: one after another, also where `-n 2 --dist
# loadgroup` runs the rest beside them.
ONE_BY_ONE = (
    *("commands", "runners/cluster", "runners/sweep", "runners/test_async.py"),
    *("runners/test_central.py", "runners/test_ranks.py", "runners/test_stop.py"),
    *("runners/test_torchrun.py", "test_polybeast.py"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        default=None,
        help="folder of golden JSON files to check the equations with (default: tests/golden)",
    )


@pytest.hookimpl(tryfirst=True)  # before the groups are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = pathlib.Path(__file__).parent
    for item in items:
        if any(item.path.is_relative_to(here / name) for name in ONE_BY_ONE):
            item.add_marker(pytest.mark.xdist_group("one by one"))

"""Pools of actors for tests, and the check that nothing of them stays."""

from __future__ import annotations

import gc

import pytest
from processes import nothing_new_since, shared_files, workers
from runners.fakes import make


@pytest.fixture
def run():
    """Makes pools, and checks that nothing of them stays."""
    pools = []
    files = shared_files()

    def start(setup, **options):
        pools.append(make(setup, **options))
        return pools[-1]

    yield start
    for pool, _ in pools:
        pool.close()
        pool.close()
    pools.clear()
    gc.collect()
    assert workers() == []
    assert nothing_new_since(files)

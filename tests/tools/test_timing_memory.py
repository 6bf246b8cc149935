import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchbeast.tools import memory, timing
from torchbeast.tools.timing import Timings


def test_shares_of_marked_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    timings = Timings()
    assert timings.shares() == {}
    now[0] += 5
    timings.start()  # nobody's
    for _ in range(2):
        now[0] += 1
        timings.mark("env")
        now[0] += 3
        timings.mark("learn")
    assert timings.seconds == {"env": 2, "learn": 6}
    assert timings.shares() == {"env": 0.25, "learn": 0.75}


def test_rss_sees_memory():
    before = memory.rss()
    # A map of its own: malloc might hand out memory that the process already holds.
    with mmap.mmap(-1, 80_000_000) as block:
        block[:: mmap.PAGESIZE] = bytes(len(range(0, len(block), mmap.PAGESIZE)))
        assert memory.rss() - before > 60e6


FAULTS = """
import resource, sys, torch
from torchbeast.tools.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    print(keep_freed_memory())
def work():
    x = torch.ones(12_000_000); y = x * 2
for _ in range(10):  # until every block has found its place
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not memory._has_glibc(), reason="only glibc gives memory back like this")
def test_freed_memory_is_kept():
    """Counted in page faults: what the kernel took back must be cleared and mapped anew."""
    root = str(Path(__file__).parents[2])
    faults = {}
    for how in ("keep", "default"):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how],
            capture_output=True,
            text=True,
            check=True,
            env=environment | {"PYTHONPATH": root},
        )
        faults[how] = done.stdout.split()
    assert faults["keep"][0] == "True"
    assert int(faults["keep"][1]) < int(faults["default"][0]) / 3


def test_no_op_without_glibc(monkeypatch):
    monkeypatch.setattr(memory, "_has_glibc", lambda: False)
    assert memory.keep_freed_memory() is False

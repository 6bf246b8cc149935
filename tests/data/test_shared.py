"""Shared memory: what it costs is known at the start, and nothing stays behind."""

from __future__ import annotations

import errno
import gc
import os

import numpy as np
import pytest
from processes import nothing_new_since, shared_files

from torchbeast.data.process import Worker
from torchbeast.data.shared import SharedBlock


def add_one(connection, block):
    array = np.frombuffer(block.memory, np.int64)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        array += 1
        connection.send("done")


def test_both_sides_see_one_memory_and_nothing_is_left():
    Worker(add_one, (None,)).kill()  # the first one brings the server and the tracker
    files = shared_files()
    descriptors = len(os.listdir("/proc/self/fd"))
    block = SharedBlock(80)
    array = np.frombuffer(block.memory, np.int64)
    worker = Worker(add_one, (block,))
    array[:] = np.arange(10)
    worker.connection.send("add")
    worker.connection.recv()
    np.testing.assert_array_equal(array, np.arange(1, 11))
    worker.kill()
    assert worker.wait(10)
    assert worker.exit_text() == "killed by SIGKILL"
    del block, array, worker
    gc.collect()
    assert nothing_new_since(files)
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_full_memory_is_a_message_not_a_crash(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MemoryError, match=r"expected 5 MB of shared memory.*lower --num_buffers"):
        SharedBlock(5_000_000)
    assert len(os.listdir("/proc/self/fd")) <= before  # threads of other tests may close theirs


def test_more_than_there_is_is_refused_before_the_kernel_kills_for_it(monkeypatch):
    # Without the check this takes all memory, and the kernel ends other processes.
    def never(*_):
        raise AssertionError("asked the kernel for more than there is")

    monkeypatch.setattr(os, "posix_fallocate", never)
    monkeypatch.setattr(os, "ftruncate", never)
    with pytest.raises(MemoryError, match=r"MB left; lower --num_buffers"):
        SharedBlock(1 << 60)

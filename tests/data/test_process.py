"""Workers: what they have of their parent, what they do not share, and when they end."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from processes import running, workers

from torchbeast.data.process import Worker

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are spawned elsewhere")


def tell(connection: Any) -> None:
    variables = {name: os.environ.get(name) for name in ("SAID", "OMP_NUM_THREADS")}
    draws = random.random(), float(np.random.random())
    connection.send((variables, draws, torch.get_num_threads(), os.getpgid(0)))
    connection.recv()


def have_one(connection: Any) -> None:
    with_one = Worker(tell, name="a grandchild")
    connection.send(with_one.pid)
    connection.recv()


@pytest.fixture
def two() -> Iterator[list[Worker]]:
    both = [Worker(tell, name=f"worker-{i}") for i in range(2)]
    yield both
    for worker in both:
        worker.kill()
    assert workers() == []


def test_they_see_the_environment_of_now_and_draw_other_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    told = []
    for said in ("one", "two"):
        monkeypatch.setenv("SAID", said)
        worker = Worker(tell)
        variables, draws, threads, group = worker.connection.recv()
        assert variables == {"SAID": said, "OMP_NUM_THREADS": None}
        assert (threads, group) == (1, worker.pid)
        told.append(draws)
        worker.kill()
    assert "OMP_NUM_THREADS" not in os.environ
    assert told[0][0] != told[1][0]
    assert told[0][1] != told[1][1]


def test_they_are_listed_by_their_names(two: list[Worker]) -> None:
    for worker in two:
        worker.connection.recv()
    if sys.platform == "linux":
        assert {process.name() for process in workers()} == {"worker-0", "worker-1"}


def test_what_a_killed_worker_started_ends_with_it() -> None:
    worker = Worker(have_one)
    grandchild = psutil.Process(worker.connection.recv())
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.wait(10)
    assert worker.exit_text() == "killed by SIGKILL"
    psutil.wait_procs([grandchild], timeout=10)
    assert not running(grandchild)
    worker.kill()


@on_linux
def test_signals_to_everybody_do_not_reach_the_server_and_its_death_is_survived(
    two: list[Worker],
) -> None:
    for worker in two:
        worker.connection.recv()
    server = psutil.Process(two[0].pid).parent()
    assert server.name() == "forks workers"
    assert os.getpgid(server.pid) == server.pid
    for number in (signal.SIGINT, signal.SIGTERM):
        server.send_signal(number)
    time.sleep(0.2)
    assert all(worker.alive for worker in two)

    server.kill()
    assert all(worker.wait(10) for worker in two)
    again = Worker(tell)
    assert again.connection.recv()
    again.kill()

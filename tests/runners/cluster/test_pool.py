"""What the learner's end makes of answers: rollouts of an actor stay in their order."""

from __future__ import annotations

import sys
import types
from collections import deque
from typing import Any

import pytest
from runners.cluster.fake_ray import fake_ray
from runners.fakes import SPEC, CountingAlgorithm, T

from torchbeast.data.message import RolloutFormat, Stamp
from torchbeast.data.slots import Slot
from torchbeast.runners.async_ import ActorFailed
from torchbeast.runners.buffers import Acting
from torchbeast.runners.cluster import pool as under_test
from torchbeast.runners.cluster.remote import RemoteWorker
from torchbeast.runners.cluster.weights import ObjectWeights
from torchbeast.runners.cluster.worker import Job, Outbox, Parcel, Started


class Answering(RemoteWorker):
    """A worker that answers requests from a list, without Ray."""

    def __init__(self, answers: list[Any]) -> None:
        super().__init__(Job(b"", {}, SPEC, 0, 7, 0, Acting(2)), 1.0)
        self.answers = deque(answers)
        self._handle = types.SimpleNamespace(collect=types.SimpleNamespace(remote=self._answer))

    def start(self, probe: Any) -> None:
        self.node = "here"

    def _answer(self, *request: Any) -> Any:
        return self.answers.popleft()


def test_an_answer_without_a_rollout_does_not_change_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = types.SimpleNamespace(
        put=lambda x: x,
        wait=lambda answers, **_: (answers[:1], []),
        get=lambda answer: ROLLOUTS[answer],
        exceptions=types.SimpleNamespace(RayTaskError=KeyError, RayError=IndexError),
    )
    monkeypatch.setitem(__import__("sys").modules, "ray", ray)
    algorithm = CountingAlgorithm(2, max_lag=1)
    spec = algorithm.rollout_spec()
    packing = RolloutFormat(spec, T, 2)
    ROLLOUTS: dict[str, Parcel | Started] = {"late": Parcel(None, 0, [], {})}
    for number in range(2):
        slot = Slot(spec, T, 2)
        slot.arrays.reward.fill(number)
        message = packing.pack(slot, Stamp(0, 7, number), "none")
        ROLLOUTS[f"rollout {number}"] = Parcel(message, 0, [], {})
    # Two requests are under way; the first finds nothing in time, and is made again.
    worker = Answering(["late", "rollout 0", "rollout 1"])
    weights = ObjectWeights(algorithm.model)
    worker._version = weights.version
    outboxes: list[Outbox] = []

    def make_buffer(on_free: Any) -> Any:
        outboxes.append(Outbox(2, on_free))
        outboxes[0].limit = 2
        return outboxes[0]

    pool = under_test.ClusterPool(
        algorithm, weights, [worker], make_buffer=make_buffer, num_buffers=2, on_wait=lambda: None
    )
    seen = []
    for _ in range(2):
        pool.fill()
        seen.append(float(outboxes[0].get()[1][0, 0]))
    assert seen == [0.0, 1.0]


class Broken(Answering):
    """A worker whose constructor raises, or whose node dies, each time it is started."""

    def start(self, probe: Any) -> None:
        self.restarts += 1
        self._starting, self.start_at = "constructed", 0.0


def broken_pool(monkeypatch: pytest.MonkeyPatch, error: Exception) -> under_test.ClusterPool:
    """Returns a pool of one worker that comes to nothing but ``error``."""
    exceptions = pytest.importorskip("ray").exceptions

    def get(answer: Any) -> None:
        raise error

    ray = fake_ray(kill=lambda worker: None, exceptions=exceptions)
    ray.get = get
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(under_test, "BACK_OFF", (0.001, 0.004))
    algorithm = CountingAlgorithm(2, max_lag=None)
    return under_test.ClusterPool(
        algorithm,
        ObjectWeights(algorithm.model),
        [Broken([])],
        make_buffer=lambda on_free: Outbox(2, on_free),
        num_buffers=2,
        on_wait=lambda: None,
    )


def test_a_worker_that_cannot_be_made_ends_the_run_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exceptions = pytest.importorskip("ray").exceptions
    text = "File x, line 3\nValueError: expected a Python file, got none"
    task = exceptions.RayTaskError("__init__", text, ValueError("x"), proctitle="ray::Worker")
    pool = broken_pool(monkeypatch, exceptions.ActorDiedError(task))
    with pytest.raises(ActorFailed, match=r"line 3\nValueError: expected a Python file") as raised:
        pool.fill()
    assert "\x1b" not in str(raised.value)


def test_a_worker_whose_nodes_die_waits_longer_each_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exceptions = pytest.importorskip("ray").exceptions
    pool = broken_pool(monkeypatch, exceptions.ActorDiedError())
    pauses = []
    for _ in range(4):
        pool._serve(0.0)
        (worker,) = pool._workers
        pauses.append(worker.losses)
        worker.start("")
    assert pauses == [1, 2, 3, 4]
    assert "is gone (The actor died unexpectedly" in caplog.text

"""What the learner's end makes of answers: rollouts of an actor stay in their order."""

from __future__ import annotations

import types
from collections import deque
from typing import Any

import pytest
from runners.fakes import SPEC, CountingAlgorithm, T

from torchbeast.data.message import RolloutFormat, Stamp
from torchbeast.data.slots import Slot
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

"""The learner's end of the cluster: workers on many nodes fill its buffer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from torchbeast.algorithms.base import Algorithm
from torchbeast.data.buffer import Buffer
from torchbeast.data.message import Fence, MessageError, RolloutFormat
from torchbeast.data.slots import Slot
from torchbeast.envs.vector import EnvError, Episode
from torchbeast.runners.async_ import ActorFailed
from torchbeast.runners.cluster.remote import RemoteWorker
from torchbeast.runners.cluster.told import full_text, reason
from torchbeast.runners.cluster.weights import ObjectWeights
from torchbeast.runners.cluster.worker import Parcel, Started
from torchbeast.runners.grants import Grants
from torchbeast.runners.source import Source
from torchbeast.runners.waiting import until_ready

log = logging.getLogger("torchbeast")

BACK_OFF = (0.5, 30.0)  # seconds before the first restart of a worker, doubled up to the second
PROBE_BYTES = 8_000_000  # whose way to a worker tells how fast the network is


class ClusterPool(Source):
    """Workers on the nodes of a Ray cluster, which send whole rollouts.

    A worker is asked for a rollout when there is a slot to receive it and the buffer allows, and
    gets the newest weights with that request. Workers start when a node has room for them, so
    nodes may come and go: what was under way on a node that dies is lost and counted, the others
    go on, and its workers start again where there is room.

    Args:
        algorithm: the learner's.
        weights: where the learner publishes.
        workers: not yet started.
        make_buffer: makes the buffer from what is called with a slot that is free again.
        num_buffers: slots that receive.
        on_wait: called at least every 0.2 s while waiting; may raise Interrupted.
        max_restarts: failures of one worker in a row, without a rollout between, that are survived.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        weights: ObjectWeights,
        workers: list[RemoteWorker],
        *,
        make_buffer: Callable[[Callable[[Slot], None]], Buffer],
        num_buffers: int,
        on_wait: Callable[[], None],
        max_restarts: int = 3,
    ) -> None:
        import ray

        self._ray = ray
        self._weights = weights
        self._workers = workers
        self._on_wait = on_wait
        self._max_restarts = max_restarts
        needs, spec = algorithm.needs, algorithm.rollout_spec()
        width = workers[0].job.acting.width
        self._format = RolloutFormat(spec, needs.unroll_length, width, algorithm.spec.frame_stack)
        self._free = [Slot(spec, needs.unroll_length, width) for _ in range(num_buffers)]
        self.buffer = make_buffer(self._free.append)
        self._grants = Grants(self.buffer, width, ordered=needs.max_lag is not None)
        self._fence = Fence()
        self._produced = self._closed = False
        self._episodes: list[Episode] = []
        self._totals = dict.fromkeys(
            ("learner_wait_s", "worker_restarts", "dropped_rollouts", "rollouts", "sent_bytes"), 0.0
        )
        self._of_the_dead: dict[str, float] = {}
        random = np.random.default_rng(0).integers(256, size=PROBE_BYTES, dtype=np.uint8)
        self._probe = ray.put(random)
        for worker in workers:
            self._start(worker)

    def fill(self) -> None:
        """Returns when the buffer has a batch ready.

        Raises:
            Interrupted: by ``on_wait``; the pool can go on afterwards.
            ActorFailed: a worker failed too often, or at the start of the run.
        """
        if self._closed:
            raise RuntimeError("expected an open pool of workers, got one that was closed")
        self._ask_more()
        self._serve(0.0)
        for waited in until_ready(self.buffer, self._on_wait, self._serve, self._states):
            self._totals["learner_wait_s"] += waited

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended since the last call; ``env`` counts over all workers."""
        taken, self._episodes = self._episodes, []
        return taken

    def metrics(self) -> dict[str, float]:
        """Returns totals since the start, and how many workers and nodes there are now."""
        totals = self._totals | {}
        for told in (self._of_the_dead, *(worker.metrics for worker in self._workers)):
            for name, value in told.items():
                if name != "learner_wait_s":  # of a worker: the wait for its actors
                    totals[name] = totals.get(name, 0.0) + value
        nodes = {worker.node for worker in self._workers if worker.node}
        working = sum(bool(worker.node) for worker in self._workers)
        now = {"workers": float(working), "nodes": float(len(nodes))}
        return totals | now | self.buffer.metrics()

    def snapshot(self) -> dict[str, Any] | None:
        """Returns None: a run on a cluster that is resumed begins new episodes."""
        return None

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Raises ValueError: there are no snapshots."""
        raise ValueError("expected no snapshot: runs on a cluster begin new episodes")

    def close(self) -> None:
        """Ends the workers. May be called twice."""
        self._closed = True
        for worker in self._workers:
            worker.bury()

    # Asking for rollouts, and getting them.

    def _states(self) -> str:
        return ", ".join(f"worker {w.job.worker} {w.state()}" for w in self._workers)

    def _ask_more(self) -> None:
        asked = []
        while self._free and (worker := self._grants.next(self._workers)) is not None:
            worker.granted.append(self._grants.give(worker, self._free.pop()))
            asked.append(worker)
        for worker in asked:  # each now knows all that it may make
            worker.ask(self._weights)

    def _serve(self, timeout: float) -> None:
        """Takes in what workers say, replaces the lost ones; waits ``timeout`` at most."""
        expected = {w.expected: w for w in self._workers if w.expected is not None}
        began = time.monotonic()
        if expected:
            ready, _ = self._ray.wait(list(expected), timeout=timeout)
            if ready and len(expected) > 1:
                ready, _ = self._ray.wait(list(expected), num_returns=len(expected), timeout=0)
            for answer in ready:
                self._receive(expected[answer], answer)
        else:
            time.sleep(timeout)
        now = time.monotonic()
        for worker in expected.values():
            worker.silent += now - began  # only while somebody listened
        for worker in self._workers:
            if not worker.alive and now >= worker.start_at:
                self._start(worker)
            elif worker.overdue():
                self._lose(worker, "is out of reach, or hangs")
        self._ask_more()

    def _start(self, worker: RemoteWorker) -> None:
        worker.start(self._probe)
        self._fence.expect(worker.job.worker, worker.job.incarnation)

    def _receive(self, worker: RemoteWorker, answer: Any) -> None:
        try:
            content = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            known = isinstance(error.cause, ActorFailed | EnvError | ValueError)
            self._fail(worker, str(error.cause) if known else full_text(error))
            return
        except self._ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):  # its own code, not its node
                self._fail(worker, full_text(error))
            else:
                self._lose(worker, f"is gone ({reason(error)})")
            return
        if isinstance(content, Started):
            worker.started(content)
            log.info("worker %d works on node %s", worker.job.worker, content.node[:8])
        else:
            self._take(worker, content)

    def _take(self, worker: RemoteWorker, parcel: Parcel) -> None:
        worker.answered()
        first = worker.job.worker * worker.job.acting.lanes
        columns = first * worker.job.acting.width
        self._episodes += [e._replace(env=columns + e.env) for e in parcel.episodes]
        worker.metrics = parcel.metrics
        if parcel.message is None:
            worker.ask(self._weights)
            return
        try:
            stamp = self._format.unpack(parcel.message, worker.granted[0].slot)
        except MessageError as error:
            self._fail(worker, f"sent a rollout that cannot be used: {error}")
            return
        if not self._fence.admits(stamp):
            self._totals["dropped_rollouts"] += 1
            worker.ask(self._weights)
            return
        worker.failures = worker.losses = 0
        self._produced = True
        self._totals["rollouts"] += 1
        self._totals["sent_bytes"] += parcel.message.nbytes
        self._grants.fill(worker.granted.popleft(), first + parcel.lane)

    # Losing workers.

    def _fail(self, worker: RemoteWorker, cause: str) -> None:
        """Buries a worker that failed by itself; raises ActorFailed if that happened too often."""
        worker.failures += 1
        what = f"worker {worker.job.worker} on node {worker.node[:8] or '?'} failed: {cause}"
        if not self._produced:
            raise ActorFailed(f"{what}\nbefore any worker had worked")
        if worker.failures > self._max_restarts:
            raise ActorFailed(f"{what}\nafter {self._max_restarts} restarts (--max_restarts)")
        self._lose(worker, f"failed: {cause}")

    def _lose(self, worker: RemoteWorker, what: str) -> None:
        """Buries a worker, and plans its next incarnation."""
        for name, value in worker.metrics.items():
            self._of_the_dead[name] = self._of_the_dead.get(name, 0.0) + value
        worker.metrics = {}
        worker.losses += 1
        was = f"worker {worker.job.worker} on node {worker.node[:8] or '?'}"
        worker.bury()
        lost = self._grants.lose(worker)
        self._free += [grant.slot for grant in lost]
        self._totals["dropped_rollouts"] += len(lost)
        self._totals["worker_restarts"] += 1
        first, longest = BACK_OFF
        pause = min(longest, first * 2 ** min(worker.losses - 1, 10))
        worker.start_at = time.monotonic() + pause
        log.warning("%s %s; it starts again in %.1f s where there is room", was, what, pause)

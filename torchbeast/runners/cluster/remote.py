"""One worker of the cluster as the learner sees it, over all its incarnations."""

from __future__ import annotations

import contextlib
import math
import pickle
import secrets
import time
from collections import deque
from typing import Any

from torchbeast import user_code
from torchbeast.algorithms.base import Needs
from torchbeast.data import EnvSpec
from torchbeast.runners.buffers import Acting
from torchbeast.runners.cluster.weights import ObjectWeights
from torchbeast.runners.cluster.worker import AHEAD, Job, RolloutWorker, Started
from torchbeast.runners.config import RunConfig
from torchbeast.runners.grants import Grant
from torchbeast.runners.process import actor_seed

WEIGHTS_SHARE = 10  # times as long as weights travel, others do: they fill a tenth of a link
LEASE = 20.0  # seconds without an answer to a request after which a worker counts as lost


class RemoteWorker:
    """A worker on some node: what it was asked, and what may still come from it.

    Ray restarts nothing and repeats nothing: what an old incarnation says after it was given up,
    from a node that had only been out of reach, is never looked at again.

    Args:
        job: what it is started with; each incarnation gets a number and a seed of its own.
        cpus: that Ray reserves for it on its node.
        limited: the lag is, so each rollout begins with the newest weights, and none before it was
            asked for.
        weights_interval: seconds between two versions that it is sent else.
    """

    def __init__(
        self, job: Job, cpus: float, limited: bool = True, weights_interval: float = 0.0
    ) -> None:
        self.job = job
        self.cpus = cpus
        self.restarts = -1
        self.failures = 0  # of its own, in a row, without a rollout between
        self.losses = 0  # the same, those of its node too
        self.node = ""  # where it is; "" while it waits for room or starts
        self.start_at = 0.0  # when the next incarnation may begin
        self.metrics: dict[str, float] = {}
        self.granted: deque[Grant] = deque()  # filled in this order, whichever request brings them
        self._requests: deque[Any] = deque()  # answered in this order
        self._handle: Any = None
        self._starting: Any = None
        self._limited = limited
        self._interval = weights_interval
        self._bandwidth = math.inf
        self._version = -1  # of the weights that it has
        self._weights_at = 0.0  # when it may be sent newer ones
        self.silent = 0.0  # seconds that were waited for its next answer

    @property
    def alive(self) -> bool:
        """Returns whether there is an incarnation, be it one that waits for room."""
        return self._handle is not None

    @property
    def expected(self) -> Any:
        """Returns Ray's reference to what comes from it next, None if nothing does."""
        if self._starting is not None:
            return self._starting
        return self._requests[0] if self._requests else None

    def start(self, probe: Any) -> None:
        """Asks Ray for the next incarnation; it begins when some node has room."""
        import ray

        self.restarts += 1
        seed = actor_seed(self.job.seed, self.job.worker, self.restarts)
        self.job = self.job._replace(incarnation=secrets.randbits(63))
        options = {"num_cpus": self.cpus, "max_restarts": 0, "max_task_retries": 0}
        actor = ray.remote(RolloutWorker).options(**options, scheduling_strategy="SPREAD")
        self._handle = actor.remote(self.job._replace(seed=seed))
        self._starting = self._handle.start.remote([probe])
        self._version, self._weights_at, self.start_at = -1, 0.0, math.inf

    def started(self, where: Started) -> None:
        """Notes that it is up."""
        self.node, self._bandwidth = where
        self._starting = None

    def can_fill(self) -> bool:
        """Returns whether a rollout asked for now would be made soon."""
        return bool(self.node) and len(self.granted) < AHEAD * self.job.acting.lanes

    def ask(self, weights: ObjectWeights) -> None:
        """Asks for the next rollout, by the newest weights; it was granted before."""
        if not self._requests:
            self.silent = 0.0
        newest = None
        if weights.version != self._version and time.monotonic() >= self._weights_at:
            newest, self._version = weights.newest(), weights.version
            if not self._limited:
                pause = max(self._interval, WEIGHTS_SHARE * weights.num_bytes / self._bandwidth)
                self._weights_at = time.monotonic() + pause
        # Requests wait for each other, and each takes a rollout away: so many will be under way
        # when this one is heard. Without a limit actors go on before the next one is heard.
        under_way = len(self.granted) - (len(self._requests) if self._limited else 0)
        self._requests.append(self._handle.collect.remote(under_way, self._version, newest))

    def answered(self) -> None:
        """Notes that the oldest request was answered."""
        self.silent = 0.0
        self._requests.popleft()

    def overdue(self) -> bool:
        """Returns whether it is silent for longer than any worker may be."""
        return bool(self._requests) and self.silent > LEASE

    def bury(self) -> None:
        """Ends this incarnation, wherever it is, and forgets what it was asked."""
        if self._handle is not None:
            import ray

            with contextlib.suppress(Exception):  # its node may be gone
                ray.kill(self._handle)
        self._handle = self._starting = None
        self.node = ""
        self.granted.clear()
        self._requests.clear()

    def state(self) -> str:
        """Returns what it is doing, for a person."""
        if self.node:
            return f"works on node {self.node[:8]}"
        if self._starting is not None:
            return f"starts, or waits for a node with {self.cpus:g} free CPUs"
        return "lost"


def workers_of(
    config: RunConfig, spec: EnvSpec, needs: Needs, acting: Acting, seed: int
) -> list[RemoteWorker]:
    """Returns the workers, not yet started, that run the actors of one learner."""
    each = config.cluster.actors_per_worker
    job = Job(
        config=pickle.dumps(config),
        files=user_code.carry_out(config.references()),
        spec=spec,
        worker=0,
        incarnation=0,
        seed=seed,
        acting=acting._replace(lanes=each),
    )

    def numbered(worker: int) -> Job:
        first = acting.first + worker * each * acting.width
        return job._replace(worker=worker, acting=job.acting._replace(first=first))

    cpus = each * config.cluster.cpus_per_actor
    how = (cpus, needs.max_lag is not None, config.cluster.weights_interval)
    return [RemoteWorker(numbered(i), *how) for i in range(acting.lanes // each)]

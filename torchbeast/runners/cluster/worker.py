"""What runs on a node of the cluster: a pool of actors whose rollouts leave as messages."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from torchbeast import user_code
from torchbeast.data import EnvSpec, Rollout
from torchbeast.data.message import RolloutFormat, Stamp, choose_codec
from torchbeast.data.slots import Slot
from torchbeast.envs.vector import Episode
from torchbeast.loops.weights import SharedWeights
from torchbeast.runners.async_ import ActorPool
from torchbeast.runners.buffers import Acting
from torchbeast.runners.config import RunConfig
from torchbeast.runners.jobs import actor_job, central, make_algorithm
from torchbeast.runners.source import Interrupted

BEAT = 2.0  # seconds; the longest time without an answer to the learner
AHEAD = 2  # rollouts of each actor that may be under way


class Job(NamedTuple):
    """What a worker is started with."""

    config: bytes  # a pickled RunConfig: its own classes may lie in ``files``
    files: dict[str, str]  # the user's code by its path on the learner's machine
    spec: EnvSpec
    worker: int
    incarnation: int  # a number that no other worker ever had
    seed: int
    acting: Acting  # this worker's actors, among those of all learners


class Started(NamedTuple):
    """Where a worker is."""

    node: str  # its id
    bandwidth: float  # bytes per second from the learner


class Parcel(NamedTuple):
    """What comes back from one ``collect``."""

    message: np.ndarray[Any, Any] | None  # a packed rollout; None: none was finished in time
    lane: int  # the actor that made it, among the worker's
    episodes: list[Episode]
    metrics: dict[str, float]


class RolloutWorker:
    """Several actor processes of one node, each with environments, answered locally or together.

    It is an ActorPool: what it survives, this survives. What it fills is packed and goes to the
    learner; weights come with each request, once per version. Ray makes it (``pool.py``).
    """

    def __init__(self, job: Job) -> None:
        user_code.carry_in(job.files)
        config: RunConfig = pickle.loads(job.config)
        self._job = job
        algorithm = make_algorithm(config, job.spec, config.system.num_learners)
        acting, self._spec = job.acting, algorithm.rollout_spec()
        unroll_length = algorithm.needs.unroll_length
        self._format = RolloutFormat(self._spec, unroll_length, acting.width, job.spec.frame_stack)
        self._weights = SharedWeights(algorithm.model)
        self._pool = ActorPool(
            actor_job(config, job.spec, algorithm),
            algorithm,
            self._weights,
            acting=acting,
            make_buffer=self._make_outbox,
            num_buffers=AHEAD * acting.lanes,
            seed=job.seed,
            on_wait=self._on_wait,
            central=central(config.system, algorithm.device),
            max_restarts=config.system.max_restarts,
            step_timeout=config.system.step_timeout,
        )
        self._codec: str = config.cluster.codec
        self._bandwidth = float("inf")
        self._sequence = 0
        self._until = 0.0

    def start(self, probe: list[Any]) -> Started:
        """Returns where it is, after timing how long the object in ``probe`` takes to get here."""
        import ray

        began = time.monotonic()
        size = ray.get(probe[0]).nbytes  # on one node nothing moves, and this takes no time
        self._bandwidth = size / (time.monotonic() - began)
        return Started(str(ray.get_runtime_context().get_node_id()), self._bandwidth)

    def collect(
        self, under_way: int, version: int, weights: np.ndarray[Any, Any] | None = None
    ) -> Parcel:
        """Returns the next rollout, or nothing if it takes longer than two seconds.

        Args:
            under_way: rollouts that may be under way here, this one counted.
            version: of the newest weights.
            weights: their bytes, if they are newer than those of the last call.
        """
        if weights is not None:
            self._weights.put([weights], version)
        self._outbox.limit = under_way
        self._until = time.monotonic() + BEAT
        try:
            self._pool.fill()
        except Interrupted:
            return Parcel(None, 0, self._pool.episodes(), self._pool.metrics())
        self._outbox.get()
        assert self._outbox.lent is not None
        slot, lane = self._outbox.lent
        message = self._packed(slot)
        self._sequence += 1
        self._outbox.feedback()
        return Parcel(message, lane, self._pool.episodes(), self._pool.metrics())

    def _make_outbox(self, on_free: Callable[[Slot], None]) -> Outbox:
        self._outbox = Outbox(self._job.acting.width, on_free)
        return self._outbox

    def _packed(self, slot: Slot) -> np.ndarray[Any, Any]:
        stamp = Stamp(self._job.worker, self._job.incarnation, self._sequence)
        if self._codec == "auto":
            into = Slot(self._spec, slot.unroll_length, slot.batch_size)
            self._codec = choose_codec(self._bandwidth, self._format, slot, into)
        return self._format.pack(slot, stamp, self._codec)

    def _on_wait(self) -> None:
        if time.monotonic() > self._until:
            raise Interrupted


class Outbox:
    """The buffer of a worker: filled slots wait until they are sent.

    ``limit`` is how many rollouts may be made or wait; ``lent`` the slot of the last ``get``, and
    the actor that filled it.
    """

    def __init__(self, columns: int, on_free: Callable[[Slot], None]) -> None:
        self.limit = 0
        self.steps = 0
        self.lent: tuple[Slot, int] | None = None
        self._columns = columns
        self._on_free = on_free
        self._filled: deque[tuple[Slot, int]] = deque()

    def put(self, slot: Slot, lane: int = 0) -> None:
        """Takes a filled slot of the actor ``lane``."""
        self._filled.append((slot, lane))

    def allows(self, columns: int) -> bool:
        """Returns whether rollouts of ``columns`` environments may be made."""
        return columns + self.waiting() <= self.limit * self._columns

    def ready(self) -> bool:
        """Returns whether one can be sent."""
        return bool(self._filled)

    def get(self) -> Rollout:
        """Returns the oldest rollout, until ``feedback``."""
        self.limit -= 1  # the next request says anew
        self.lent = self._filled.popleft()
        return self.lent[0].rollout

    def feedback(self, priority: Any = None) -> None:
        """Lets the slot of the last ``get`` be filled again."""
        assert self.lent is not None
        slot, self.lent = self.lent[0], None
        self.steps += slot.unroll_length * slot.batch_size
        self._on_free(slot)

    def waiting(self) -> int:
        """Returns the columns that were put and have yet to be sent."""
        return len(self._filled) * self._columns

    def metrics(self) -> dict[str, float]:
        """Returns nothing: the learner's buffer has something to say."""
        return {}

"""An actor process from both sides: as its parent sees it, and what runs in it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from torchbeast.data import Rollout
from torchbeast.data.process import Worker
from torchbeast.data.shared import SharedBlock
from torchbeast.data.slots import Slot, shared_slots, slots_in
from torchbeast.envs.vector import VectorEnv
from torchbeast.loops.actor import Actor
from torchbeast.loops.alternating import Alternating, make_actor
from torchbeast.loops.policy import Policy, places
from torchbeast.loops.weights import SharedWeights
from torchbeast.runners.buffers import Acting
from torchbeast.runners.source import ActingJob

__all__ = ["ActorTask", "Grant", "Remote", "Worker", "act", "actor_seed"]

START_TIMEOUT = 120.0  # seconds for an actor's imports, on a machine that starts many at once


class ActorTask(NamedTuple):
    """What an actor is started with; its incarnations differ in what comes last."""

    job: ActingJob
    spec: Rollout  # of ArraySpec
    weights: SharedWeights
    num_slots: int
    acting: Acting
    heartbeat: float  # seconds
    block: SharedBlock | None = None  # holds its slots, which no other actor sees
    incarnation: int = -1
    seed: int = 0
    actor: int = 0


def actor_seed(seed: int, actor: int, incarnation: int = 0) -> int:
    """Returns the seed, of 31 bits, of an actor's environments and random numbers."""
    sequence = np.random.SeedSequence((seed, actor, incarnation))
    return int(sequence.generate_state(1)[0]) >> 1


def seed_all(seed: int) -> None:
    """Seeds the generators of Python, NumPy and torch in this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# The parent's side.


@dataclasses.dataclass(eq=False)
class Grant:
    """The right of an actor to fill a slot, until the buffer gets it."""

    remote: Remote
    index: int
    slot: Slot
    filled: bool = False


class Remote:
    """One actor as its parent sees it, over all its incarnations."""

    def __init__(self, actor: int, seed: int, task: ActorTask) -> None:
        self.actor = actor
        self.task = task._replace(actor=actor)
        self.worker: Worker | None = None  # None between two incarnations
        self.start_at = 0.0  # when the next one may begin
        self.free: deque[int] = deque()
        self.granted: deque[Grant] = deque()  # an actor fills in this order
        self.sequence = 0  # rollouts that came
        self.up = False  # its imports are done
        self.ready = False  # it has environments
        self.rows = 0
        self.progress_at = 0.0
        self._seed = seed
        self._slots: list[Slot] = []

    @property
    def incarnation(self) -> int:
        """How often it was started again."""
        return self.task.incarnation

    def start(self) -> None:
        """Starts the next incarnation, in slots where no dead one can have left a finger."""
        task = self.task
        size = (task.job.unroll_length, task.acting.width, task.num_slots)
        block, self._slots = shared_slots(task.spec, *size)
        self.free = deque(range(task.num_slots))
        incarnation = task.incarnation + 1
        seed = actor_seed(self._seed, self.actor, incarnation)
        self.task = task._replace(block=block, incarnation=incarnation, seed=seed)
        self.sequence = self.rows = 0
        self.up = self.ready = False
        self.worker = Worker(act, (self.task,), name=f"actor-{self.actor}")
        self.progress_at = time.monotonic()

    def can_fill(self) -> bool:
        """Returns whether a grant now would be filled soon.

        The first incarnation need not be ready, so that the order of grants does not depend on
        who starts fastest; later ones must, so that nobody waits for their start.
        """
        return bool(self.worker and self.free and (self.ready or self.incarnation == 0))

    def grant(self) -> Grant:
        """Returns the grant of a free slot after telling the actor."""
        assert self.worker is not None
        index = self.free.popleft()
        grant = Grant(self, index, self._slots[index])
        if not self.granted:
            self.progress_at = time.monotonic()
        self.granted.append(grant)
        # If it just died, the next look at it will tell.
        with contextlib.suppress(OSError):
            self.worker.connection.send(index)
        return grant

    def take_back(self, slot: Slot) -> bool:
        """Returns whether ``slot`` is one of this incarnation's, now free."""
        for index, own in enumerate(self._slots):
            if own is slot:
                self.free.append(index)
                return True
        return False

    def overdue(self, step_timeout: float) -> str:
        """Returns what the actor has not done in time; "" if all is well."""
        limit = step_timeout if self.up else START_TIMEOUT
        busy = self.granted or not self.ready
        if not busy or time.monotonic() - self.progress_at <= limit:
            return ""
        return f"made no progress for {limit:g} s (limit: --step_timeout; was past row {self.rows})"

    def bury(self) -> str:
        """Returns how the worker ended, after ending it and everything that it started."""
        assert self.worker is not None
        self.worker.kill()
        text = self.worker.exit_text()
        self.forget()
        return text

    def forget(self) -> None:
        """Lets go of worker and slots; rollouts that others still hold stay whole."""
        self.worker = None
        self.task = self.task._replace(block=None)
        self.start_at = math.inf
        self.granted.clear()
        self.free.clear()
        self._slots = []

    def state(self) -> str:
        """Returns what the actor is doing, for a person."""
        if self.worker is None:
            return "lost"
        return f"at row {self.rows}" if self.ready else "starting"


# The actor's side.


class ParentGone(Exception):
    """The parent closed the pipe, or is dead."""


class Link:
    """The actor's end of the pipe; every message begins with the incarnation and a kind.

    up: the imports are done. ready: there is an environment. beat: rows so far. filled: sequence
    number, slot, episodes that ended, seconds waited for slots. failed: the traceback.
    """

    def __init__(self, connection: Connection, incarnation: int) -> None:
        self._connection = connection
        self._incarnation = incarnation

    def send(self, kind: str, *content: Any) -> None:
        """Sends a message. Raises ParentGone."""
        try:
            self._connection.send((self._incarnation, kind, *content))
        except OSError as error:
            raise ParentGone from error

    def granted(self) -> int:
        """Returns the index of the next slot to fill; waits for it. Raises ParentGone."""
        try:
            return int(self._connection.recv())
        except (EOFError, OSError) as error:
            raise ParentGone from error


class Heartbeat:
    """Tells the parent, not too often, that rows are still being made."""

    def __init__(self, link: Link, period: float) -> None:
        self._link = link
        self._period = period
        self._rows = 0
        self._due = 0.0

    def __call__(self) -> None:
        """Counts one row. Raises ParentGone."""
        self._rows += 1
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._period
            self._link.send("beat", self._rows)


def act(connection: Connection, task: ActorTask) -> None:
    """Fills granted slots until the parent closes the pipe."""
    link = Link(connection, task.incarnation)
    with contextlib.suppress(ParentGone):
        link.send("up")
        try:
            _act(link, task)
        except ParentGone:
            raise
        except BaseException:  # also the SystemExit of an environment
            link.send("failed", traceback.format_exc())


def _act(link: Link, task: ActorTask) -> None:
    torch.set_num_threads(1)
    seed_all(task.seed)
    assert task.block is not None
    width, first, total = task.acting.width, task.acting.first, task.acting.total
    slots = slots_in(task.block, task.spec, task.job.unroll_length, width, task.num_slots)
    algorithm = task.job.make_algorithm()
    env = task.job.make_env(width, task.seed, first // width + task.actor)
    try:
        where = places(width, first + task.actor * width, total or task.acting.lanes * width)
        policy = Policy(algorithm, algorithm.model, task.weights, width, where)
        actor = make_actor(env, policy, Heartbeat(link, task.heartbeat))
        seed_all(task.seed)  # after all that draws random numbers of its own
        link.send("ready")
        _fill(link, env, actor, slots)
    finally:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            env.close()


def _fill(link: Link, env: VectorEnv, actor: Actor | Alternating, slots: list[Slot]) -> None:
    sequence = 0
    waited = 0.0
    while True:
        asked_at = time.monotonic()
        index = link.granted()
        waited += time.monotonic() - asked_at
        actor.collect(slots[index])
        sequence += 1
        link.send("filled", sequence, index, env.episodes(), waited)
        waited = 0.0

"""An actor process from both sides: as its parent sees it, and what runs in it."""

from __future__ import annotations

import contextlib
import functools
import random
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from torchbeast.data import Rollout
from torchbeast.data.process import LogTo, Worker
from torchbeast.data.shared import SharedBlock
from torchbeast.data.slots import Slot, shared_slots, slots_in
from torchbeast.envs.vector import VectorEnv
from torchbeast.loops.actor import Actor
from torchbeast.loops.alternating import Alternating, make_actor
from torchbeast.loops.inference import Line, ServedPolicy, ServerGone
from torchbeast.loops.policy import Answers, Policy, places
from torchbeast.loops.weights import SharedWeights
from torchbeast.runners.buffers import Acting
from torchbeast.runners.grants import Grant
from torchbeast.runners.member import START_TIMEOUT, Member
from torchbeast.runners.source import ActingJob

__all__ = ["START_TIMEOUT", "ActorTask", "Remote", "act", "actor_seed"]


class ActorTask(NamedTuple):
    """What an actor is started with; its incarnations differ in what comes last."""

    job: ActingJob
    spec: Rollout  # of ArraySpec
    weights: SharedWeights
    num_slots: int
    acting: Acting
    heartbeat: float  # seconds
    served: bool = False  # a server answers its rows, whose pipe comes through the parent's
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


class Remote(Member):
    """One actor as its parent sees it, over all its incarnations."""

    def __init__(self, actor: int, seed: int, task: ActorTask) -> None:
        super().__init__(f"actor {actor}")
        self.actor = actor
        self.task = task._replace(actor=actor)
        self.free: deque[int] = deque()
        self.granted: deque[Grant] = deque()  # an actor fills in this order
        self.sequence = 0  # rollouts that came
        self.rows = 0
        self._seed = seed
        self._slots: list[Slot] = []

    def _spawn(self) -> Worker:
        # In slots where no dead incarnation can have left a finger.
        task = self.task
        size = (task.job.unroll_length, task.acting.width, task.num_slots)
        block, self._slots = shared_slots(task.spec, *size)
        self.free = deque(range(task.num_slots))
        self.sequence = self.rows = 0
        self.seed = actor_seed(self._seed, self.actor, self.incarnation)
        self.task = task._replace(block=block, incarnation=self.incarnation, seed=self.seed)
        return Worker(act, (self.task,), name=f"actor-{self.actor}")

    def can_fill(self) -> bool:
        """Returns whether a grant now would be filled soon.

        The first incarnation need not be ready, so that the order of grants does not depend on
        who starts fastest; later ones must, so that nobody waits for their start.
        """
        return bool(self.worker and self.free and (self.ready or self.incarnation == 0))

    def next_slot(self) -> Slot:
        """Returns a free slot, for a grant."""
        return self._slots[self.free.popleft()]

    def take(self, grant: Grant) -> None:
        """Tells the actor what it may fill."""
        assert self.worker is not None
        if not self.granted:
            self.progress_at = time.monotonic()
        self.granted.append(grant)
        # If it just died, the next look at it will tell.
        with contextlib.suppress(OSError):
            self.worker.connection.send(grant.slot.index)

    def take_back(self, slot: Slot) -> bool:
        """Returns whether ``slot`` is one of this incarnation's, now free."""
        for index, own in enumerate(self._slots):
            if own is slot:
                self.free.append(index)
                return True
        return False

    def busy(self) -> bool:
        """Returns whether there is something that it should be doing."""
        return bool(self.granted) or not self.ready

    def forget(self) -> None:
        """Lets go of worker and slots; rollouts that others still hold stay whole."""
        super().forget()
        self.task = self.task._replace(block=None)
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
    number, slot, episodes that ended, seconds waited for slots. dropped: the server of inference
    is gone, and the rollout begins anew. log: level and text. failed: the traceback.

    The parent sends indices of slots to fill, and None before a pipe to a server.
    """

    def __init__(self, connection: Connection, incarnation: int) -> None:
        self._connection = connection
        self._incarnation = incarnation
        self._granted: deque[int] = deque()
        self._servers: deque[int] = deque()

    def send(self, kind: str, *content: Any) -> None:
        """Sends a message. Raises ParentGone."""
        try:
            self._connection.send((self._incarnation, kind, *content))
        except OSError as error:
            raise ParentGone from error

    def granted(self) -> int:
        """Returns the index of the next slot to fill; waits for it. Raises ParentGone."""
        while not self._granted:
            self._receive()
        return self._granted.popleft()

    def server(
        self, on_wait: Callable[[], None], period: float, pipe: socket.socket | None
    ) -> socket.socket:
        """Returns the pipe to the newest server; waits for one if ``pipe`` is None.

        Raises:
            ParentGone: there will be none.
        """
        while not self._servers and pipe is None:
            if self._connection.poll(period):
                self._receive()
            else:
                on_wait()
        while self._servers:
            if pipe is not None:
                pipe.close()
            pipe = socket.socket(fileno=self._servers.popleft())
        assert pipe is not None
        return pipe

    def _receive(self) -> None:
        try:
            index = self._connection.recv()
            if index is None:
                self._servers.append(reduction.recv_handle(self._connection))
            else:
                self._granted.append(index)
        except (EOFError, OSError) as error:
            raise ParentGone from error


class Heartbeat:
    """Tells the parent, not too often, that rows are still being made."""

    def __init__(self, link: Link, period: float) -> None:
        self.period = period
        self._link = link
        self._rows = 0
        self._due = 0.0

    def __call__(self) -> None:
        """Counts one row. Raises ParentGone."""
        self._rows += 1
        self.beat()

    def beat(self) -> None:
        """Says that all is well here, whatever it waits for. Raises ParentGone."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self.period
            self._link.send("beat", self._rows)


def act(connection: Connection, task: ActorTask) -> None:
    """Fills granted slots until the parent closes the pipe."""
    link = Link(connection, task.incarnation)
    LogTo(functools.partial(link.send, "log"))
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
    width = task.acting.width
    slots = slots_in(task.block, task.spec, task.job.unroll_length, width, task.num_slots)
    heartbeat = Heartbeat(link, task.heartbeat)
    policy = _served(link, task, heartbeat) if task.served else _policy(task)
    env = task.job.make_env(width, task.seed, task.acting.first // width + task.actor)
    try:
        actor = make_actor(env, policy, heartbeat)
        seed_all(task.seed)  # after all that draws random numbers of its own
        link.send("ready")
        _fill(link, env, actor, slots)
    finally:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            env.close()


def _policy(task: ActorTask) -> Answers:
    width, first = task.acting.width, task.acting.first
    algorithm = task.job.make_algorithm()
    where = places(width, first + task.actor * width, task.acting.everyone)
    return Policy(algorithm, algorithm.model, task.weights, width, where)


def _served(link: Link, task: ActorTask, heartbeat: Heartbeat) -> Answers:
    renew = functools.partial(link.server, heartbeat.beat, heartbeat.period)
    line = Line(task.incarnation, renew, heartbeat.beat, heartbeat.period)
    return ServedPolicy(line, slice(0, task.acting.width))


def _fill(link: Link, env: VectorEnv, actor: Actor | Alternating, slots: list[Slot]) -> None:
    sequence = 0
    waited = 0.0
    while True:
        asked_at = time.monotonic()
        index = link.granted()
        waited += time.monotonic() - asked_at
        while not _collected(link, actor, slots[index]):
            pass
        sequence += 1
        link.send("filled", sequence, index, env.episodes(), waited)
        waited = 0.0


def _collected(link: Link, actor: Actor | Alternating, slot: Slot) -> bool:
    try:
        actor.collect(slot)
        return True
    except ServerGone:
        link.send("dropped")
        return False

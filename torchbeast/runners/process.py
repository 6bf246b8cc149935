"""What runs in the process of an actor: it fills the slots that it is granted."""

from __future__ import annotations

import contextlib
import random
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from torchbeast.data import Rollout
from torchbeast.data.process import Worker
from torchbeast.data.shared import SharedBlock
from torchbeast.data.slots import Slot, slots_in
from torchbeast.envs.vector import VectorEnv
from torchbeast.loops.actor import Actor
from torchbeast.loops.policy import Policy
from torchbeast.loops.weights import SharedWeights
from torchbeast.runners.source import ActingJob

__all__ = ["ActorTask", "Worker", "act", "actor_seed"]


class ActorTask(NamedTuple):
    """What one incarnation of an actor is started with."""

    job: ActingJob
    spec: Rollout  # of ArraySpec
    weights: SharedWeights
    block: SharedBlock  # holds its slots, which no other actor sees
    num_slots: int
    num_envs: int
    incarnation: int
    seed: int
    heartbeat: float  # seconds


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


def actor_seed(seed: int, actor: int, incarnation: int = 0) -> int:
    """Returns the seed, of 31 bits, of an actor's environments and random numbers."""
    sequence = np.random.SeedSequence((seed, actor, incarnation))
    return int(sequence.generate_state(1)[0]) >> 1


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
    random.seed(task.seed)
    np.random.seed(task.seed)
    slots = slots_in(
        task.block, task.spec, task.job.unroll_length, task.num_envs, task.num_slots
    )
    algorithm = task.job.make_algorithm()
    env = task.job.make_env(task.num_envs, task.seed)
    try:
        torch.manual_seed(task.seed)  # after the model, which drew random numbers of its own
        policy = Policy(algorithm, algorithm.model, task.weights, task.num_envs)
        actor = Actor(env, policy, Heartbeat(link, task.heartbeat))
        link.send("ready")
        _fill(link, env, actor, slots)
    finally:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            env.close()


def _fill(link: Link, env: VectorEnv, actor: Actor, slots: list[Slot]) -> None:
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

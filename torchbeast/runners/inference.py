"""The process of central inference from both sides: as its parent sees it, and what runs in it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
import traceback
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from torchbeast.data import Rollout
from torchbeast.data.process import Worker
from torchbeast.data.shared import SharedBlock
from torchbeast.data.slots import slots_in
from torchbeast.loops.batcher import Waiting
from torchbeast.loops.inference import ANSWERED, QUESTION, Inference, Question
from torchbeast.loops.policy import places
from torchbeast.loops.weights import SharedWeights
from torchbeast.runners.buffers import Acting
from torchbeast.runners.member import Member
from torchbeast.runners.process import Link, ParentGone, Remote, actor_seed, seed_all
from torchbeast.runners.source import ActingJob
from torchbeast.tools.memory import keep_freed_memory


class Central(NamedTuple):
    """How one process answers all actors of a learner."""

    device: torch.device = torch.device("cpu")
    min_batch: int = 1  # actors
    max_batch: int = 512
    timeout_ms: float = 100.0
    threads: int = 1  # of PyTorch


class ServerTask(NamedTuple):
    """What the server is started with; its incarnations differ in what comes last."""

    job: ActingJob
    spec: Rollout  # of ArraySpec
    weights: SharedWeights
    num_slots: int  # of each actor
    acting: Acting
    central: Central
    heartbeat: float  # seconds
    incarnation: int = -1
    seed: int = 0


class Server(Member):
    """The server as its parent sees it, over all its incarnations.

    An actor and the server talk over a private pipe. Both ends are made here, for each pair of
    incarnations, and go over the pipes that are there already; the server gets the memory of the
    actor's slots with it.
    """

    def __init__(self, seed: int, task: ServerTask) -> None:
        super().__init__("inference server")
        self._seed = seed
        self._task = task

    def _spawn(self) -> Worker:
        seed = actor_seed(self._seed, self._task.acting.lanes, self.incarnation)
        self.seed = seed
        self._task = self._task._replace(incarnation=self.incarnation, seed=seed)
        return Worker(serve, (self._task,), name="inference")

    def busy(self) -> bool:
        """Returns True: it says that all is well also when nobody asks."""
        return True

    def state(self) -> str:
        """Returns what the server is doing, for a person."""
        return "serving" if self.ready else "starting"

    def connect(self, remote: Remote) -> None:
        """Gives the server and an actor a pipe to each other, if both are ready."""
        block = remote.task.block
        if not (self.worker and self.ready and remote.worker and remote.ready and block):
            return
        ours, theirs = socket.socketpair()
        with ours, theirs, contextlib.suppress(OSError):  # if one just died, that shows elsewhere
            server, actor = self.worker.connection, remote.worker.connection
            server.send((remote.actor, remote.incarnation, block.num_bytes))
            for fd in (block.fileno(), ours.fileno()):
                reduction.send_handle(server, fd, self.worker.pid)
            actor.send(None)
            reduction.send_handle(actor, theirs.fileno(), remote.worker.pid)


# The server's side.


def serve(connection: Connection, task: ServerTask) -> None:
    """Answers actors until the parent closes the pipe."""
    link = Link(connection, task.incarnation)
    with contextlib.suppress(ParentGone):
        link.send("up")
        try:
            Desk(connection, link, task).serve()
        except ParentGone:
            raise
        except BaseException:
            link.send("failed", traceback.format_exc())


class Desk:
    """Listens to the parent and to all actors, and has them answered."""

    def __init__(self, connection: Connection, link: Link, task: ServerTask) -> None:
        central, acting = task.central, task.acting
        keep_freed_memory()
        torch.set_num_threads(central.threads)
        seed_all(task.seed)
        algorithm = task.job.make_algorithm()
        algorithm.to(central.device)
        seed_all(task.seed)  # after all that draws random numbers of its own
        self._task = task
        self._link = link
        self._parent = connection
        self._inference = Inference(
            algorithm,
            task.weights,
            acting.width,
            places(acting.lanes * acting.width, acting.first, acting.everyone),
            Waiting(central.min_batch, central.max_batch, central.timeout_ms),
        )
        self._pipes: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def serve(self) -> None:
        """Answers for ever. Raises ParentGone."""
        self._link.send("ready")
        period, beat_at = self._task.heartbeat, 0.0
        while True:
            due = self._inference.due()
            for key, _ in self._selector.select(period if due is None else min(due, period)):
                if key.data is None:
                    self._admit()
                else:
                    self._hear(*key.data)
            if self._inference.due() == 0:
                self._inference.answer()
            now = time.monotonic()
            if now >= beat_at:
                beat_at = now + period
                self._link.send("beat", 0)

    def _admit(self) -> None:
        """Takes in a new incarnation of an actor: its slots, and the pipe to it."""
        task = self._task
        try:
            actor, incarnation, num_bytes = self._parent.recv()
            block = SharedBlock.of(reduction.recv_handle(self._parent), num_bytes)
            pipe = socket.socket(fileno=reduction.recv_handle(self._parent))
        except (EOFError, OSError) as error:
            raise ParentGone from error
        self._hang_up(actor)
        size = (task.job.unroll_length, task.acting.width, task.num_slots)
        slots = slots_in(block, task.spec, *size)

        def reply() -> None:
            with contextlib.suppress(OSError):  # it died meanwhile
                pipe.send(ANSWERED)

        self._inference.admit(actor, incarnation, slots, reply)
        self._pipes[actor] = pipe
        self._selector.register(pipe, selectors.EVENT_READ, (actor, pipe))

    def _hear(self, actor: int, pipe: socket.socket) -> None:
        if self._pipes.get(actor) is not pipe:
            return  # of an old incarnation, let go since the events were taken
        question = b""
        with contextlib.suppress(OSError):
            question = pipe.recv(QUESTION.size)
        asked = len(question) == QUESTION.size and self._inference.ask(
            actor, Question(*QUESTION.unpack(question))
        )
        if not asked:  # dead, or an old incarnation
            self._hang_up(actor)

    def _hang_up(self, actor: int) -> None:
        pipe = self._pipes.pop(actor, None)
        if pipe is not None:
            self._selector.unregister(pipe)
            pipe.close()

"""Acting in processes of their own, beside the learner: the source of asynchronous runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from torchbeast.algorithms.base import Algorithm
from torchbeast.data.buffer import Buffer
from torchbeast.data.process import close_workers
from torchbeast.data.slots import Slot
from torchbeast.envs.vector import Episode
from torchbeast.loops.weights import SharedWeights
from torchbeast.runners.buffers import Acting
from torchbeast.runners.grants import Grants
from torchbeast.runners.inference import Central, Server, ServerTask
from torchbeast.runners.member import ActorFailed, Member
from torchbeast.runners.process import ActorTask, Remote
from torchbeast.runners.source import ActingJob, Source
from torchbeast.runners.waiting import until_ready

__all__ = ["ActorFailed", "ActorPool"]

log = logging.getLogger("torchbeast")

CHECK = 0.1  # seconds between looks for actors that hang


class ActorPool(Source):
    """N actor processes that fill slots in shared memory; the buffer gets them when they are full.

    Each actor has its own environments, its own copy of the model, a private pipe and private
    slots. It fills the slots that it is granted, with the newest weights when it begins one.
    Slots are granted as soon as they are free and the buffer allows: a replay that waits for its
    learner lets actors wait too. Without a limit on the lag, rollouts are taken as they come. With
    ``max_lag``, rollouts of (max_lag + 1) batches at most are granted and not yet learned from,
    and they are taken in the order of the grants: then no rollout can get older, however slow its
    actor, and runs with max_lag 0 repeat.

    An actor that dies, raises or hangs loses its unfinished rollout, and a new incarnation with
    other random numbers takes its place after a pause. The others do not wait for it.

    With ``central`` the actors have no models: one more process answers them all. When it is lost,
    all rollouts under way are, and begin anew when the next one is there: with fresh recurrent
    states, in environments that went on.

    Args:
        job: what acting needs.
        algorithm: says what a rollout looks like, and whether its lag has a limit.
        weights: where the learner publishes.
        acting: the N actors, and the columns of a rollout.
        make_buffer: called with what the buffer calls to free a slot; returns where rollouts go.
        num_buffers: slots over all actors, rounded up to a multiple of N.
        seed: actors and their incarnations derive theirs from it.
        central: how one process answers all actors; None: each answers itself.
        on_wait: called at least every 0.2 s while waiting; may raise Interrupted.
        max_restarts: of each actor, and of the server of inference, in the whole run.
        step_timeout: seconds without progress after which one of them counts as hung.
    """

    def __init__(
        self,
        job: ActingJob,
        algorithm: Algorithm,
        weights: SharedWeights,
        *,
        acting: Acting,
        make_buffer: Callable[[Callable[[Slot], None]], Buffer],
        num_buffers: int,
        seed: int,
        on_wait: Callable[[], None],
        central: Central | None = None,
        max_restarts: int = 3,
        step_timeout: float = 60.0,
    ) -> None:
        self._columns = acting.width
        self._ordered = algorithm.needs.max_lag is not None
        self._on_wait = on_wait
        self._max_restarts = max_restarts
        self._step_timeout = step_timeout
        spec = algorithm.rollout_spec()
        self.buffer = make_buffer(self._on_free)
        self._grants = Grants(self.buffer, self._columns, self._ordered)
        self._checked_at = 0.0
        self._started = self._produced = self._closed = False
        self._episodes: list[Episode] = []
        self._learner_wait = self._actor_wait = 0.0
        self._restarts = self._dropped = 0
        heartbeat = min(0.5, step_timeout / 4)
        slots_each = acting.slots_each(num_buffers)
        task = ActorTask(job, spec, weights, slots_each, acting, heartbeat, central is not None)
        self._remotes = [Remote(actor, seed, task) for actor in range(acting.lanes)]
        self._server: Server | None = None
        if central is not None:
            served = ServerTask(job, spec, weights, slots_each, acting, central, heartbeat)
            self._server = Server(seed, served)
        self._members = [*filter(None, [self._server]), *self._remotes]
        try:
            for member in self._members:
                member.start()
        except BaseException:
            self.close()
            raise

    def fill(self) -> None:
        """Returns when the buffer has a batch ready.

        Raises:
            Interrupted: by ``on_wait``; the pool can go on afterwards.
            ActorFailed: an actor failed too often, or at the start of the run.
        """
        if self._closed:
            raise RuntimeError("expected an open pool of actors, got one that was closed")
        # Grants for which weights matter are made here only: what was taken is learned from.
        self._started = True
        self._grant_more()
        self._serve(0.0)
        for waited in until_ready(self.buffer, self._on_wait, self._serve, self._states):
            self._learner_wait += waited

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended since the last call; ``env`` counts over all actors."""
        taken, self._episodes = self._episodes, []
        return taken

    def metrics(self) -> dict[str, float]:
        """Returns totals since the start: seconds waited (over all actors), restarts, losses."""
        told = {
            "learner_wait_s": self._learner_wait,
            "actor_wait_s": self._actor_wait,
            "actor_restarts": float(self._restarts),
            "dropped_rollouts": float(self._dropped),
        }
        if self._server is not None:
            told["inference_restarts"] = float(max(0, self._server.incarnation))
        return told | self.buffer.metrics()

    def snapshot(self) -> dict[str, Any] | None:
        """Returns None: an asynchronous run that is resumed begins new episodes."""
        return None

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Raises ValueError: there are no snapshots."""
        raise ValueError("expected no snapshot: asynchronous runs begin new episodes")

    def close(self) -> None:
        """Ends the actors: asks, waits for a second, kills. May be called twice."""
        self._closed = True
        close_workers([m.worker for m in self._members if m.worker is not None])
        for member in self._members:
            member.forget()
        self._grants.clear()

    # Granting slots, and getting them back.

    def _states(self) -> str:
        return ", ".join(f"{m.name} {m.state()}" for m in self._members)

    def _grant_more(self) -> None:
        while (remote := self._grants.next(self._remotes)) is not None:
            self._grant(remote)

    def _grant(self, remote: Remote) -> None:
        remote.take(self._grants.give(remote, remote.next_slot()))

    def _on_free(self, slot: Slot) -> None:
        for remote in self._remotes:
            if remote.take_back(slot):
                grants = self._started and not self._ordered
                if grants and remote.can_fill() and self._grants.allowed():
                    self._grant(remote)
                return
        # Else it was of a dead incarnation: its memory goes with it.

    # Listening to actors, and to the server of inference.

    def _serve(self, timeout: float) -> None:
        """Takes in what they say, replaces the lost ones; waits ``timeout`` at most."""
        now = time.monotonic()
        watched: dict[Any, Member] = {}
        for member in self._members:
            if member.worker is not None:
                watched[member.worker.connection] = watched[member.worker.sentinel] = member
            else:
                timeout = min(timeout, max(0.0, member.start_at - now))
        told = {id(watched[x]) for x in wait(list(watched), timeout)}
        for member in self._members:
            if id(member) in told:
                self._receive(member)
        now = time.monotonic()
        if now - self._checked_at >= CHECK:
            self._checked_at = now
            for member in self._members:
                self._check_on(member)
        self._grant_more()

    def _receive(self, member: Member) -> None:
        worker = member.worker
        assert worker is not None
        alive = worker.alive  # asked first: what a dead actor has finished is still taken
        try:
            while member.worker is worker and worker.connection.poll():
                self._on_message(member, *worker.connection.recv())
        except (EOFError, OSError):
            alive = False
        if member.worker is worker and not alive:
            self._lose(member, "")

    def _on_message(self, member: Member, incarnation: int, kind: str, *content: Any) -> None:
        member.progress_at = time.monotonic()
        member.up = True
        if kind == "ready":
            member.ready = True
            self._connect(member)
        elif kind == "beat":
            member.rows = content[0]
        elif kind == "filled":
            assert isinstance(member, Remote)
            self._on_filled(member, incarnation, *content)
        elif kind == "dropped":
            self._dropped += 1
        elif kind == "log":
            level, text = content
            log.log(level, "%s: %s", member.name, text)
        elif kind == "failed":
            self._lose(member, "raised an error", content[0])

    def _connect(self, member: Member) -> None:
        """Brings a new actor together with the server, or a new server with all actors."""
        if self._server is not None:
            for remote in self._remotes:
                if member in (remote, self._server):
                    self._server.connect(remote)

    def _on_filled(
        self,
        remote: Remote,
        incarnation: int,
        sequence: int,
        index: int,
        episodes: list[Episode],
        waited: float,
    ) -> None:
        expected = (remote.incarnation, remote.sequence + 1)
        due = [grant.slot.index for grant in remote.granted][:1]
        if (incarnation, sequence) != expected or due != [index]:
            self._dropped += 1  # old or repeated
            return
        self._produced = True
        remote.sequence = sequence
        self._actor_wait += waited
        first = remote.actor * self._columns
        self._episodes += [e._replace(env=first + e.env) for e in episodes]
        self._grants.fill(remote.granted.popleft(), remote.actor)

    # Losing them, and starting them again.

    def _check_on(self, member: Member) -> None:
        if member.worker is None:
            if time.monotonic() >= member.start_at:
                member.start()
            return
        overdue = member.overdue(self._step_timeout)
        if overdue:
            self._lose(member, overdue)
        elif not member.worker.alive:  # and something that it started keeps its pipe open
            self._receive(member)

    def _lose(self, member: Member, cause: str, trace: str = "") -> None:
        """Buries a worker, and plans its next incarnation or raises ActorFailed."""
        if isinstance(member, Remote):
            self._dropped += bool(member.granted)
        ended = member.bury()
        self._grants.lose(member)
        member.plan(cause or f"ended: {ended}", trace, self._max_restarts, self._produced)
        self._restarts += isinstance(member, Remote)

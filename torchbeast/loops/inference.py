"""Central inference: one model answers the rows of many actors, which hold none.

Rows stay where they are, in slots that both sides see; what travels is which row of which slot.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree
import torch
from torch import Tensor

from torchbeast.algorithms.base import Algorithm
from torchbeast.data import Rollout, Tree, tree_leaves, tree_map, zero_rows
from torchbeast.data.slots import Slot
from torchbeast.loops.batcher import Waiting
from torchbeast.loops.weights import Weights

__all__ = ["Inference", "Line", "Question", "ServedPolicy", "ServerGone"]


class Question(NamedTuple):
    """Which row is to be answered; 20 bytes on a private pipe. The answer is one byte."""

    incarnation: int  # of the actor that asks
    slot: int
    row: int
    start: int  # the columns of the slot
    stop: int


QUESTION = struct.Struct("<5i")
ANSWERED = b"."


class Part(NamedTuple):
    """Some columns of a slot, and where they stand among those of all actors."""

    slot: Slot
    columns: slice
    numbers: np.ndarray[Any, Any]  # [B] the same


class Client:
    """An incarnation of an actor, as inference sees it."""

    def __init__(
        self, incarnation: int, slots: Sequence[Slot], first: int, reply: Callable[[], None]
    ) -> None:
        self.incarnation = incarnation
        self.reply = reply
        self._slots = slots
        self._first = first  # its first column among those of all actors
        self._parts: dict[tuple[int, int, int], Part] = {}

    def part(self, slot: int, start: int, stop: int) -> Part:
        """Returns columns of a slot; views cost time to make, so they are kept."""
        key = (slot, start, stop)
        if key not in self._parts:
            columns = slice(self._first + start, self._first + stop)
            part = self._slots[slot].columns(slice(start, stop))
            self._parts[key] = Part(part, columns, np.arange(columns.start, columns.stop))
        return self._parts[key]


class Asked(NamedTuple):
    """A row that waits for its answer."""

    client: Client
    part: Part
    row: int


class Inference:
    """The answering side: recurrent states of all actors, and the algorithm's way to answer.

    States never leave this process, and belong to one incarnation of an actor: the next begins
    with ``algorithm.initial_state``, and what a dead one still asks is refused.

    The newest weights are taken when a rollout begins. Later rows of a rollout may be answered by
    newer weights, which others' beginnings brought: ``version`` in the slot is that of the oldest.
    With max_lag 0 no rollout is under way while weights are published, so there all rows are
    answered by the newest.

    Args:
        algorithm: whose ``act`` answers, with its own model.
        weights: where newer weights come from.
        width: environments of each actor.
        explore: [actors * width] where each environment stands, as ``places`` returns it.
        waiting: says when enough rows wait, and how many are answered at once.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        weights: Weights,
        width: int,
        explore: Tensor,
        waiting: Waiting[Asked],
    ) -> None:
        self._algorithm = algorithm
        self._weights = weights
        self._width = width
        self._waiting = waiting
        device = algorithm.device
        self._explore = explore.to(device)
        self._fresh = tree_map(lambda x: x.to(device), algorithm.initial_state(len(explore)))
        self._state = tree_map(torch.clone, self._fresh)
        arrival: Any = zero_rows(algorithm.spec, 1)[:5]
        self._structure = optree.tree_structure(arrival)
        self._clients: dict[int, Client] = {}
        self._beginning: list[Part] = []  # rollouts whose row 0 is not answered yet
        self._version = 0

    def admit(
        self, actor: int, incarnation: int, slots: Sequence[Slot], reply: Callable[[], None]
    ) -> None:
        """Lets a new incarnation of an actor ask, with rows in ``slots`` and fresh states.

        ``reply`` is called when a row was answered.
        """
        while self._waiting:  # what its predecessor asked must not touch the new states
            self.answer()
        first, end = actor * self._width, (actor + 1) * self._width
        self._clients[actor] = Client(incarnation, slots, first, reply)
        tree_map(
            lambda x, fresh: x[:, first:end].copy_(fresh[:, first:end]), self._state, self._fresh
        )

    def ask(self, actor: int, question: Question) -> bool:
        """Returns whether the row will be answered: not if the incarnation is an old one."""
        client = self._clients.get(actor)
        if client is None or client.incarnation != question.incarnation:
            return False
        part = client.part(question.slot, question.start, question.stop)
        if question.row == 0:
            self._beginning.append(part)
        self._waiting.append(Asked(client, part, question.row))
        return True

    def due(self) -> float | None:
        """Returns the seconds until rows are to be answered; None: nobody asks."""
        return self._waiting.due()

    def answer(self) -> None:
        """Answers the rows that wait longest, in their slots."""
        batch = self._waiting.take()
        self._begin_rollouts()
        rows = [asked.part.slot.arrival(asked.row) for asked in batch]
        arrival = [np.concatenate(leaves, 1) for leaves in zip(*rows, strict=True)]
        columns = np.concatenate([asked.part.numbers for asked in batch])
        with torch.inference_mode():
            answer = self._act(arrival, torch.from_numpy(columns))
        end = 0
        for client, part, row in batch:
            start, end = end, end + len(part.numbers)
            part.slot.write_answer(row, [leaf[0, start:end] for leaf in answer])
            client.reply()

    def _begin_rollouts(self) -> None:
        """Takes the newest weights if rollouts begin, and writes what they begin with."""
        if self._beginning:
            self._version = self._weights.fetch(self._algorithm.model)
        for slot, columns, _ in self._beginning:
            state = tree_map(lambda x, of=columns: x[:, of], self._state)
            slot.write_start(state, self._version)
        self._beginning.clear()

    def _act(self, arrival: list[Any], columns: Tensor) -> list[Any]:
        """Returns the leaves of action and extras [1, B, ...] of rows of the states ``columns``."""
        device = self._algorithm.device
        leaves = [torch.from_numpy(x).to(device) for x in arrival]
        arrived = optree.tree_unflatten(self._structure, leaves)
        rows = Rollout._make([*arrived, arrived[-1], {}, (), columns])
        columns = columns.to(device)
        state = tree_map(lambda x: x.index_select(1, columns), self._state)
        explore = self._explore.index_select(0, columns)
        action, extras, state = self._algorithm.act(self._algorithm.model, rows, state, explore)
        tree_map(lambda x, new: x.index_copy_(1, columns, new), self._state, state)
        return [x.cpu().numpy() for x in tree_leaves((action, extras))]


# The actor's side.


class ServerGone(Exception):
    """The server of inference is dead: the rollout under way cannot be finished."""


class Line:
    """An actor's pipe to the server; a new one when that was replaced.

    Args:
        incarnation: of the actor.
        renew: returns the newest pipe, the one that it is given if there is no newer; waits for
            one if it is given None.
        on_wait: called at least every ``period`` seconds while the server has not answered.
        period: seconds.
    """

    def __init__(
        self,
        incarnation: int,
        renew: Callable[[socket.socket | None], socket.socket],
        on_wait: Callable[[], None],
        period: float,
    ) -> None:
        self._incarnation = incarnation
        self._renew = renew
        self._on_wait = on_wait
        self._period = period
        self._pipe: socket.socket | None = None

    def open(self) -> None:
        """Waits until there is a server."""
        self._pipe = self._renew(self._pipe)
        self._pipe.settimeout(self._period)

    def ask(self, slot: int, row: int, columns: slice) -> None:
        """Returns when the row is answered. Raises ServerGone."""
        assert self._pipe is not None
        question = Question(self._incarnation, slot, row, columns.start, columns.stop)
        answer = b""
        with contextlib.suppress(OSError):
            self._pipe.send(QUESTION.pack(*question))
            answer = self._hear(self._pipe)
        if answer != ANSWERED:
            self._pipe.close()
            self._pipe = None
            raise ServerGone

    def _hear(self, pipe: socket.socket) -> bytes:
        while True:
            try:
                return pipe.recv(len(ANSWERED))
            except TimeoutError:
                self._on_wait()


class ServedPolicy:
    """Answers rows by asking a server, which also keeps the recurrent state.

    The server sees the slots: it writes the answers into them itself.

    Args:
        line: the way to the server.
        columns: the environments that it answers, among those of the actor.
    """

    state: Tree = ()

    def __init__(self, line: Line, columns: slice) -> None:
        self._line = line
        self._columns = columns

    def refresh(self) -> None:
        """Waits until there is a server; weights are its own business."""
        self._line.open()

    def answer(self, slot: Slot, t: int) -> Tree:
        """Returns actions [B, ...] for row t of ``slot``, in which the answer stands now.

        Raises:
            ServerGone: start the rollout anew.
        """
        self._line.ask(slot.index, t, self._columns)
        return slot.action(t)

    def share(self, columns: slice) -> ServedPolicy:
        """Returns the policy of the environments in ``columns`` only."""
        return ServedPolicy(self._line, columns)

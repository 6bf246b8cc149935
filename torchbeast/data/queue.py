"""The buffer of on-policy and V-trace learning: each rollout is learned from once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from torchbeast.data.rollout import ROW_FIELDS, Rollout, tree_leaves
from torchbeast.data.slots import Slot


class RolloutQueue:
    """Filled slots wait here, first in, first out, and leave as batches of ``batch_size`` columns.

    A slot as wide as a batch is handed out in place. A wider one is handed out in groups of
    columns; narrower ones are copied side by side into a batch that is reused.

    Args:
        spec: a Rollout of ArraySpec.
        unroll_length: T.
        slot_columns: environments per slot.
        batch_size: environments per batch.
        on_free: called with a slot that may be filled again.
        max_lag: versions that the acting weights may be behind; bounds what is under way.
        pin_memory: page-locked batches, for a GPU that learns.
    """

    def __init__(
        self,
        spec: Rollout,
        unroll_length: int,
        slot_columns: int,
        batch_size: int,
        on_free: Callable[[Slot], None],
        max_lag: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        check_divides(batch_size, slot_columns)
        self.batch_size = batch_size
        self.slot_columns = slot_columns
        self.steps = 0  # of the batches that were learned from
        self._bound = math.inf if max_lag is None else (max_lag + 1) * batch_size
        self._batch_steps = unroll_length * batch_size
        self._on_free = on_free
        self._filled: deque[Slot] = deque()
        self._groups: Iterator[Rollout] | None = None
        self._groups_left = 0
        self._lent: list[Slot] = []
        self._gathers = slot_columns < batch_size or pin_memory
        if self._gathers:
            memory = None
            if pin_memory:
                size = Slot.num_bytes(spec, unroll_length, batch_size)
                memory = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy().data
            self._batch = Slot(spec, unroll_length, batch_size, memory)

    def waiting(self) -> int:
        """Returns the columns that wait."""
        return len(self._filled) * self.slot_columns + self._groups_left * self.batch_size

    def ready(self) -> bool:
        """Returns whether a batch waits."""
        return self.waiting() >= self.batch_size

    def allows(self, columns: int) -> bool:
        """Returns whether rollouts of ``columns`` environments may be under way to it."""
        return columns + self.waiting() <= self._bound

    def metrics(self) -> dict[str, float]:
        """Returns nothing: what there is to say, sources and learners say."""
        return {}

    def put(self, slot: Slot, lane: int = 0) -> None:
        """Takes a filled slot; it is the queue's until ``on_free`` hands it back."""
        self._filled.append(slot)

    def get(self) -> Rollout:
        """Returns the next batch; it is the caller's until ``feedback``.

        Raises:
            RuntimeError: no batch is ready.
        """
        if not self.ready():
            raise RuntimeError(
                f"expected {self.batch_size} columns in the queue, got {self.waiting()}"
            )
        if self.slot_columns > self.batch_size:
            return self._next_group()
        slots = [self._filled.popleft() for _ in range(self.batch_size // self.slot_columns)]
        if not self._gathers:
            self._lent = slots
            return slots[0].rollout
        _gather(slots, self._batch.rollout, self.slot_columns)
        for slot in slots:
            self._on_free(slot)
        return self._batch.rollout

    def feedback(self, priority: Any = None) -> None:
        """Ends the use of the last batch. Rollouts are learned from once: no priority is kept."""
        self.steps += self._batch_steps
        if self._groups_left == 0:
            for slot in self._lent:
                self._on_free(slot)
            self._lent = []

    def _next_group(self) -> Rollout:
        if self._groups_left == 0:
            slot = self._filled.popleft()
            self._lent = [slot]
            self._groups_left = self.slot_columns // self.batch_size
        start = self.slot_columns - self._groups_left * self.batch_size
        self._groups_left -= 1
        group = self._lent[0].rollout.columns(slice(start, start + self.batch_size))
        if self._gathers:
            _copy(group, self._batch.rollout, 0, self.batch_size)
            return self._batch.rollout
        return group


def check_divides(batch_size: int, columns: int) -> None:
    """Raises ValueError unless batches can be made of slots of ``columns`` environments."""
    if batch_size % columns and columns % batch_size:
        raise ValueError(
            f"expected a batch_size that is a multiple or a divisor of the {columns} environments "
            f"of a rollout, got {batch_size}; change --batch_size, --num_envs or --envs_per_actor"
        )


def check_capacity(slots: int, columns: int, batch_size: int, max_lag: int | None) -> None:
    """Raises ValueError unless ``slots`` rollouts of ``columns`` environments can make a batch.

    With a limit on the lag, at most (max_lag + 1) batches are under way: a slot must fit in.
    """
    if slots * columns < batch_size:
        raise ValueError(
            f"expected at least {-(-batch_size // columns)} rollouts of {columns} environments for "
            f"a batch of {batch_size}, got {slots}; raise --num_buffers"
        )
    if max_lag is not None and columns > (max_lag + 1) * batch_size:
        raise ValueError(
            f"expected at most {(max_lag + 1) * batch_size} environments per actor for the "
            f"algorithm's max_lag of {max_lag} and batches of {batch_size}, got {columns}; lower "
            f"--envs_per_actor or raise --batch_size"
        )


def _gather(slots: list[Slot], batch: Rollout, columns: int) -> None:
    for i, slot in enumerate(slots):
        _copy(slot.rollout, batch, i * columns, columns)


def _copy(source: Rollout, batch: Rollout, start: int, columns: int) -> None:
    end = start + columns
    pairs = zip(
        tree_leaves(batch[: ROW_FIELDS + 1]), tree_leaves(source[: ROW_FIELDS + 1]), strict=True
    )
    for destination, leaf in pairs:
        destination[:, start:end].copy_(leaf)
    batch.version[start:end].copy_(source.version)

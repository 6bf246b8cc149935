"""Slots: rollouts that lie still, written row by row and read in place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optree
import torch

from torchbeast.data.rollout import ROW_FIELDS, Rollout, Tree, tree_leaves, tree_map
from torchbeast.data.shared import SharedBlock, aligned
from torchbeast.data.spec import ArraySpec, is_spec

VERSION = np.dtype(np.int64)
MAGIC_FLOAT = -4242.42  # what an unwritten float reads as; bytes read 0xAB


class Slot:
    """One rollout of fixed shape over one contiguous block of memory.

    ``rollout`` shows it as tensors, ``row(t)`` shows rows [1, B], and ``write_arrival`` and
    ``write_answer`` fill a row from NumPy arrays or tensors. All of them are views: nothing moves.
    A slot starts filled with a magic value: a row that nobody wrote shows.

    Args:
        spec: a Rollout of ArraySpec.
        unroll_length: T; the slot has T + 1 rows.
        batch_size: B.
        memory: the block to lie in, at least ``Slot.num_bytes(...)`` long; private if None.
        index: its place among the slots of a block.
    """

    def __init__(
        self,
        spec: Rollout,
        unroll_length: int,
        batch_size: int,
        memory: Any = None,
        index: int = 0,
    ) -> None:
        own = memory is None
        self.index = index
        if own:
            # torch aligns it as shared memory is: products of equal numbers are then equal.
            size = self.num_bytes(spec, unroll_length, batch_size)
            memory = torch.empty(size, dtype=torch.uint8).numpy().data
        tree: Any = tuple(spec)
        treedef = optree.tree_structure(tree, is_leaf=is_spec)
        offset = 0
        arrays: list[np.ndarray[Any, Any]] = []
        for leaf in slot_arrays(spec, unroll_length, batch_size):
            array = np.ndarray(leaf.shape, leaf.dtype, memory, offset)
            offset += aligned(array.nbytes)
            arrays.append(array)
        self._show(Rollout(*optree.tree_unflatten(treedef, arrays)))
        if own:
            self.fill_magic()

    def _show(self, arrays: Rollout) -> None:
        self.arrays = arrays
        self.unroll_length = len(arrays.reward) - 1
        self.batch_size = len(arrays.version)
        self.rollout = Rollout(*tree_map(torch.from_numpy, tuple(arrays)))
        self._rows = [self.rollout.rows(slice(t, t + 1)) for t in range(self.unroll_length + 1)]
        # The hot loop writes through these flat lists: a tree map costs 10 times as much.
        self._arrival = tree_leaves(tuple(arrays[:5]))
        self._answer = tree_leaves(tuple(arrays[5:7]))

    @staticmethod
    def num_bytes(spec: Rollout, unroll_length: int, batch_size: int) -> int:
        """Returns the bytes that a slot of this spec takes."""
        return sum(
            aligned(math.prod(leaf.shape) * leaf.dtype.itemsize)
            for leaf in slot_arrays(spec, unroll_length, batch_size)
        )

    def row(self, t: int) -> Rollout:
        """Returns row t as a rollout of rows [1, B]."""
        return self._rows[t]

    def columns(self, index: slice) -> Slot:
        """Returns the slot of the environments in ``index``, over the memory of this one."""
        part = object.__new__(Slot)
        part.index = self.index
        part._show(self.arrays.columns(index))
        return part

    def arrival(self, t: int) -> list[Any]:
        """Returns the leaves of what came in row t, arrays [1, B, ...] over its memory."""
        return [x[t : t + 1] for x in self._arrival]

    def action(self, t: int) -> Tree:
        """Returns the actions [B, ...] of row t, copied to last."""
        return tree_map(lambda x: x[t].copy(), self.arrays.action)

    def write_arrival(self, t: int, leaves: list[Any]) -> None:
        """Writes what came: the leaves of (obs, reward, discount, first, prev_action), each [B]."""
        for destination, source in zip(self._arrival, leaves, strict=True):
            destination[t] = source

    def write_answer(self, t: int, leaves: list[Any]) -> None:
        """Writes what was answered: the leaves of (action, extras), each [B, ...]."""
        for destination, source in zip(self._answer, leaves, strict=True):
            destination[t] = source

    def write_start(self, state: Tree, version: int) -> None:
        """Writes the recurrent state before row 0 and the version of the weights that act."""
        tree_map(lambda destination, source: destination.copy_(source), self.rollout.state, state)
        self.rollout.version.fill_(version)

    def end(self) -> None:
        """Leaves the last row unanswered: zero, so that nothing stale can be learned from."""
        for destination in self._answer:
            destination[-1] = 0

    def fill_magic(self) -> None:
        """Fills every leaf with a magic value, so that a row nobody wrote shows in tests."""
        for array in tree_leaves(tuple(self.arrays)):
            if np.issubdtype(array.dtype, np.floating):
                array.fill(MAGIC_FLOAT)
            else:
                array.view(np.uint8).fill(0xAB)


def shared_slots(
    spec: Rollout, unroll_length: int, batch_size: int, count: int
) -> tuple[SharedBlock, list[Slot]]:
    """Returns one shared block and ``count`` slots in it."""
    size = Slot.num_bytes(spec, unroll_length, batch_size)
    block = SharedBlock(size * count)
    slots = slots_in(block, spec, unroll_length, batch_size, count)
    for slot in slots:
        slot.fill_magic()
    return block, slots


def slots_in(
    block: SharedBlock, spec: Rollout, unroll_length: int, batch_size: int, count: int
) -> list[Slot]:
    """Returns the slots of a block made by ``shared_slots``, seen from another process."""
    size = Slot.num_bytes(spec, unroll_length, batch_size)
    view = memoryview(block.memory)
    return [
        Slot(spec, unroll_length, batch_size, view[i * size : (i + 1) * size], i)
        for i in range(count)
    ]


def slot_arrays(spec: Rollout, unroll_length: int, batch_size: int) -> list[ArraySpec]:
    """Returns shape and type of each array of a slot, in the order of its leaves."""

    def along_time(leaf: ArraySpec) -> ArraySpec:
        return leaf._replace(shape=(unroll_length + 1, batch_size, *leaf.shape))

    def state(leaf: ArraySpec) -> ArraySpec:
        return leaf._replace(shape=(leaf.shape[0], batch_size, *leaf.shape[1:]))

    rows, states = _leaves(spec[:ROW_FIELDS]), _leaves((spec.state,))
    return [*map(along_time, rows), *map(state, states), ArraySpec((batch_size,), VERSION)]


def _leaves(tree: Any) -> list[ArraySpec]:
    return optree.tree_leaves(tree, is_leaf=is_spec)

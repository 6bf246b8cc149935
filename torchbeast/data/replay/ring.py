"""What a replay stores: the newest rows of each environment, in arrays that never move."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optree
import torch

from torchbeast.data.replay.memory import Array, file_memory, private_memory
from torchbeast.data.replay.stored_frames import AGE, StoredFrames
from torchbeast.data.rollout import ROW_FIELDS, Rollout, Tree, tree_leaves, tree_map
from torchbeast.data.shared import aligned
from torchbeast.data.slots import Slot
from torchbeast.data.spec import ArraySpec, is_spec

ROWS, STARTS = Rollout._fields[:ROW_FIELDS], Rollout._fields[ROW_FIELDS:]


class Ring:
    """The newest L rows of the W environments of each actor; the lane of an actor is its own.

    Rollouts are appended without their last row, which comes again as row 0 of the next: the rows
    of a lane follow each other. An address says where a row of one environment lies: the flat
    index into [lanes, L, W]. The recurrent state and the version of the weights are stored once
    per rollout: their flat index is into [lanes, L / T, W].

    Args:
        spec: a Rollout of ArraySpec.
        unroll_length: T of the rollouts.
        lanes: actors.
        width: W, environments of an actor.
        capacity: environment steps to keep; rounded up to whole rollouts.
        frame_stack: k; above 1 observations are stacks of k frames, and each frame is stored once.
        folder: on a disk, where the arrays lie in a file; None: in memory.

    Raises:
        ValueError: the capacity is too small, or observations cannot be stacks of k frames.
        MemoryError: the machine has too little memory.
        OSError: the disk has too little room.
    """

    def __init__(
        self,
        spec: Rollout,
        *,
        unroll_length: int,
        lanes: int,
        width: int,
        capacity: int,
        frame_stack: int = 1,
        folder: str | Path | None = None,
    ) -> None:
        self.unroll_length, self.lanes, self.width = unroll_length, lanes, width
        self.frame_stack = frame_stack
        self.length = _rollouts(capacity, lanes * width * unroll_length) * unroll_length  # L
        self.check_holds(1)
        self.count = np.zeros(lanes, np.int64)  # rows ever appended to each lane
        self.num_rows = lanes * self.length * width
        self.num_states = self.num_rows // unroll_length
        tree = self._allocate(self._shapes(spec), folder)
        # Rows [lanes * L * W, ...]; states [lanes * L / T * W, N, H].
        self.arrays: Any = Rollout(**{name: tree[name] for name in Rollout._fields})
        self.frames: StoredFrames | None = None
        if frame_stack > 1:
            self.frames = StoredFrames(self.arrays.obs, tree["age"], lanes, width, frame_stack)
        self._obs = tree_map(torch.from_numpy, self.arrays.obs)
        row_fields: Any = self.arrays[1:ROW_FIELDS]
        self._row_leaves: list[Array] = optree.tree_leaves(row_fields)
        self._row_tree = optree.tree_structure(row_fields)
        # Appending writes through these: [lanes, L, W, ...] and [lanes, L / T, W, ...].
        rows = self.arrays[1:ROW_FIELDS] if self.frames else self.arrays[:ROW_FIELDS]
        self._rows = [self._by_lane(leaf, self.length) for leaf in tree_leaves(rows)]
        self._starts = [
            self._by_lane(leaf, self.length // unroll_length)
            for leaf in [*tree_leaves(self.arrays.state), self.arrays.version]
        ]

    def _allocate(self, shapes: Any, folder: str | Path | None) -> Any:
        """Returns the arrays of a tree of shapes, in one block of memory."""
        paths, specs, treedef = optree.tree_flatten_with_path(shapes, is_leaf=is_spec)
        sizes = [aligned(math.prod(leaf.shape) * leaf.dtype.itemsize) for leaf in specs]
        self.num_bytes = sum(sizes)
        memory: Any = (
            private_memory(self.num_bytes)
            if folder is None
            else file_memory(self.num_bytes, folder)
        )
        starts = np.cumsum([0, *sizes])[:-1].tolist()
        leaves: list[Array] = [
            np.ndarray(leaf.shape, leaf.dtype, memory, start)
            for leaf, start in zip(specs, starts, strict=True)
        ]
        self._named = {
            ".".join(map(str, path)): leaf for path, leaf in zip(paths, leaves, strict=True)
        }
        return optree.tree_unflatten(treedef, leaves)

    def append(self, lane: int, slot: Slot) -> None:
        """Stores the rows 0 .. T-1 of a rollout, over the oldest ones.

        Raises:
            ValueError: it is of another shape, or its observations are no stacks of frames.
        """
        if (slot.unroll_length, slot.batch_size) != (self.unroll_length, self.width):
            raise ValueError(
                f"expected a rollout of {self.unroll_length} steps of {self.width} environments, "
                f"got {slot.unroll_length} steps of {slot.batch_size}"
            )
        came: Any = slot.arrays
        count, steps = int(self.count[lane]), self.unroll_length
        position = count % self.length
        rows = slice(position, position + steps)
        if self.frames:
            self.frames.append(lane, position, count > 0, came.obs[:steps], came.first[:steps])
        sources = tree_leaves(came[1:ROW_FIELDS] if self.frames else came[:ROW_FIELDS])
        for destination, source in zip(self._rows, sources, strict=True):
            destination[lane, rows] = source[:steps]
        states = [state.swapaxes(0, 1) for state in tree_leaves(came.state)]
        for destination, source in zip(self._starts, [*states, came.version], strict=True):
            destination[lane, position // steps] = source
        self.count[lane] += steps

    def check_holds(self, rows: int) -> None:
        """Raises ValueError unless ``rows`` rows of an environment, and their stacks, fit in."""
        needed = rows + self.frame_stack - 1
        if self.length < needed:
            least = _rollouts(needed, self.unroll_length) * self.unroll_length
            raise ValueError(
                f"expected room for at least {needed} rows of each of {self.lanes * self.width} "
                f"environments in the replay, got {self.length}; raise --replay_size to "
                f"{least * self.lanes * self.width} or more"
            )

    def oldest(self, lane: int, more: int = 0) -> int:
        """Returns the oldest row of a lane whose stack is whole, when ``more`` rows have come."""
        return max(0, int(self.count[lane]) + more - self.length + self.frame_stack - 1)

    def address(self, lane: int, rows: Array) -> Array:
        """Returns the addresses [R, W] of rows [R] of a lane, counted from its first ever."""
        return (lane * self.length + rows[:, None] % self.length) * self.width + np.arange(
            self.width
        )

    def row(self, address: Array, count: Array) -> Array:
        """Returns which rows lie at addresses, counted from the first ever of their lane.

        ``count`` is what ``self.count`` was, or is, at the time in question.
        """
        lane, offset = np.divmod(address, self.length * self.width)
        newest = count[lane] - 1
        return newest - (newest - offset // self.width) % self.length

    def later(self, address: Array, steps: Array | int) -> Array:
        """Returns the addresses of rows ``steps`` later in the same environments."""
        offset = address % (self.length * self.width)
        return address - offset + (offset + steps * self.width) % (self.length * self.width)

    def start(self, address: Array) -> Array:
        """Returns the flat index of state and version of the rollouts that rows came in."""
        return address // (self.unroll_length * self.width) * self.width + address % self.width

    def rollout(self, address: Array, observations: bool = True, states: bool = True) -> Rollout:
        """Returns the rows at addresses [R, B] as a rollout; state and version are of its row 0.

        Without ``observations`` or ``states``, () stands for them.
        """
        start = self.start(address[0])
        rows = [torch.from_numpy(leaf.take(address, 0)) for leaf in self._row_leaves]
        state: Tree = ()
        if states:
            state = tree_map(
                lambda leaf: torch.from_numpy(leaf.take(start, 0).swapaxes(0, 1)),
                self.arrays.state,
            )
        obs = self._observations(address) if observations else ()
        version = torch.from_numpy(self.arrays.version.take(start))
        fields: Any = optree.tree_unflatten(self._row_tree, rows)
        return Rollout._make([obs, *fields, state, version])

    def layout(self) -> dict[str, Any]:
        """Returns what lies where: sizes, and shape and type of each array; as JSON has them."""
        sizes = ("lanes", "width", "unroll_length", "frame_stack", "length")
        arrays = {name: [list(leaf.shape), leaf.dtype.str] for name, leaf in self._named.items()}
        return {name: getattr(self, name) for name in sizes} | arrays

    def in_use(self) -> dict[str, list[Array]]:
        """Returns the parts of each array that hold rows, one for each lane."""
        used = np.minimum(self.count, self.length).tolist()
        size = self.length * self.width
        parts = {}
        for name, leaf in self._named.items():
            every = 1 if len(leaf) >= self.num_rows else self.unroll_length
            parts[name] = [
                leaf[lane * size // every : (lane * size + rows * self.width) // every]
                for lane, rows in enumerate(used)
            ]
        return parts

    def _observations(self, address: Array) -> Tree:
        if self.frames:
            return self.frames.stacks(address)
        index = torch.from_numpy(address.reshape(-1))

        def take(leaf: torch.Tensor) -> torch.Tensor:
            return leaf.index_select(0, index).view(*address.shape, *leaf.shape[1:])

        return tree_map(take, self._obs)

    def _by_lane(self, leaf: Array, length: int) -> Array:
        return leaf.reshape(self.lanes, length, self.width, *leaf.shape[1:])

    def _shapes(self, spec: Rollout) -> dict[str, Tree]:
        """Returns the shapes of all arrays: those of a rollout, and the ages of frames."""

        def times(count: int, tree: Tree) -> Tree:
            return optree.tree_map(
                lambda leaf: ArraySpec((count, *leaf.shape), leaf.dtype), tree, is_leaf=is_spec
            )

        shapes = {name: times(self.num_rows, getattr(spec, name)) for name in ROWS}
        shapes |= {name: times(self.num_states, getattr(spec, name)) for name in STARTS}
        if self.frame_stack > 1:
            frame = _frame(spec.obs, self.frame_stack)
            shapes["obs"] = times(self.num_rows + 1, frame)  # the last one: zeros, for padding
            shapes["age"] = ArraySpec((self.num_rows,), np.dtype(np.uint8))
        return shapes


def _rollouts(steps: int, size: int) -> int:
    return -(-steps // size)


def _frame(obs: Tree, stack: int) -> ArraySpec:
    if not is_spec(obs) or obs.shape[:1] != (stack,) or stack > AGE + 1:
        raise ValueError(
            f"expected observations that are stacks of {stack} frames along their first axis, got "
            f"{obs}; --replay_whole_stacks stores them whole"
        )
    return ArraySpec(obs.shape[1:], obs.dtype)

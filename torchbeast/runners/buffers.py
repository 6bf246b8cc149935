"""Makes the buffer that an algorithm needs: a queue, or a replay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torchbeast.algorithms.base import Algorithm, Once, Replayed
from torchbeast.data.buffer import Buffer
from torchbeast.data.queue import RolloutQueue, check_capacity
from torchbeast.data.replay import Pacing, Prioritized, Replay, Ring, Uniform
from torchbeast.data.slots import Slot
from torchbeast.tools.files import StorageError


class Acting(NamedTuple):
    """Who fills a buffer: ``lanes`` actors with ``width`` environments each."""

    width: int
    lanes: int = 1
    first: int = 0  # the place of the first environment among those of all learners
    total: int | None = None  # environments of all learners; None: no others

    @property
    def everyone(self) -> int:
        """Returns how many environments all learners have."""
        return self.total or self.lanes * self.width

    def slots_each(self, num_buffers: int) -> int:
        """Returns the slots of each actor that make ``num_buffers`` or a few more over all."""
        return max(1, -(-num_buffers // self.lanes))


class Keeping(NamedTuple):
    """How a replay keeps what it is given."""

    seed: int = 0  # of what it draws
    folder: str | None = None  # where its memory-mapped file lies; None: in memory
    whole_stacks: bool = False  # keep stacks of frames as they are


def make_buffer(
    algorithm: Algorithm, acting: Acting, keeping: Keeping, on_free: Callable[[Slot], None]
) -> Buffer:
    """Returns an empty buffer for the rollouts of an algorithm.

    Raises:
        MemoryError, StorageError: a replay of this size does not fit.
    """
    needs = algorithm.needs
    if isinstance(needs, Replayed):
        return _replay(algorithm, needs, acting, keeping, on_free)
    return RolloutQueue(
        algorithm.rollout_spec(),
        needs.unroll_length,
        acting.width,
        needs.batch_size,
        on_free,
        needs.max_lag,
        pin_memory=algorithm.device.type == "cuda",
    )


def _replay(
    algorithm: Algorithm,
    needs: Replayed,
    acting: Acting,
    keeping: Keeping,
    on_free: Callable[[Slot], None],
) -> Replay:
    try:
        ring = Ring(
            algorithm.rollout_spec(),
            unroll_length=needs.unroll_length,
            lanes=acting.lanes,
            width=acting.width,
            capacity=needs.capacity,
            frame_stack=1 if keeping.whole_stacks else algorithm.spec.frame_stack,
            folder=keeping.folder,
        )
    except OSError as error:
        raise StorageError(str(error)) from error
    items = needs.window.num_items(ring)
    exponent = needs.priority_exponent
    # Each actor may be one rollout ahead, so that the learner finds work when it comes.
    ahead = 1 if needs.max_lag is not None else acting.lanes
    return Replay(
        ring,
        needs.window,
        Uniform(items) if exponent is None else Prioritized(items, exponent),
        Pacing(needs.ratio, needs.min_size, ahead * needs.unroll_length * acting.width),
        needs.batch_size,
        seed=keeping.seed,
        on_free=on_free,
        initial_priority=algorithm.initial_priority,
    )


def check_buffer(algorithm: Algorithm, acting: Acting, num_buffers: int) -> None:
    """Raises ValueError unless ``num_buffers`` rollouts over all actors can make a batch."""
    needs = algorithm.needs
    if isinstance(needs, Once):
        num_slots = acting.slots_each(num_buffers) * acting.lanes
        check_capacity(num_slots, acting.width, needs.batch_size, needs.max_lag)


def slots_for_a_batch(algorithm: Algorithm, width: int) -> int:
    """Returns how many rollouts of ``width`` environments must lie side by side."""
    needs = algorithm.needs
    return max(1, math.ceil(needs.batch_size / width)) if isinstance(needs, Once) else 1

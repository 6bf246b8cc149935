"""What every channel between acting and learning must do, whatever rollouts travel through.

Of each worker rollouts arrive in order, whole, and once; what an old incarnation or a sender of
another schema sends does not.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pytest
from gymnasium import spaces

from torchbeast.data import EnvSpec, Rollout, rollout_spec, tree_leaves, zero_rows
from torchbeast.data.message import Fence, MessageError, RolloutFormat, Stamp
from torchbeast.data.process import Worker, close_workers
from torchbeast.data.queue import RolloutQueue
from torchbeast.data.slots import Slot, shared_slots, slots_in

T, B, WORKERS, SLOTS = 3, 2, 2, 3


def make_spec(size: int = 5) -> Rollout:
    env = EnvSpec(spaces.Box(0, 255, (2, size, 8), np.uint8), spaces.Discrete(4), 2)
    return rollout_spec(zero_rows(env, 1))


def write(slot: Slot, stamp: Stamp) -> None:
    """Fills a slot with noise that only this rollout has."""
    rng = np.random.default_rng(stamp)
    for array in tree_leaves(tuple(slot.arrays)):
        array[...] = rng.integers(0, 2, array.shape)


class Channel(Protocol):
    """Sends rollouts of workers from wherever they are filled, and hands them out."""

    def expect(self, worker: int, incarnation: int) -> None:
        """Hears only this incarnation of a worker from now on."""

    def send(self, stamp: Stamp, size: int = 5) -> None:
        """Lets the worker send the rollout of ``stamp``, of frames of another size or not."""

    def receive(self) -> Rollout | None:
        """Returns the next rollout, None if what came was refused; raises for a wrong schema."""

    def close(self) -> None:
        """Ends the workers."""


class InProcess:
    """Slots of this process, handed over in a queue."""

    def __init__(self) -> None:
        self._free = [Slot(make_spec(), T, B) for _ in range(SLOTS)]
        self._queue = RolloutQueue(make_spec(), T, B, B, self._free.append)
        self._lent = False

    def expect(self, worker: int, incarnation: int) -> None: ...

    def send(self, stamp: Stamp, size: int = 5) -> None:
        slot = self._free.pop()
        write(slot, stamp)
        self._queue.put(slot, stamp.worker)

    def receive(self) -> Rollout | None:
        if self._lent:
            self._queue.feedback()
        self._lent = True
        return self._queue.get()

    def close(self) -> None: ...


def fill_shared(connection: Any, block: Any) -> None:
    """Fills the slot that is named, and names it back."""
    slots = slots_in(block, make_spec(), T, B, SLOTS)
    with contextlib.suppress(EOFError):
        while True:
            stamp, index = connection.recv()
            write(slots[index], stamp)
            connection.send((stamp, index))


class SharedMemory:
    """Slots that other processes fill; their indices travel."""

    def __init__(self) -> None:
        blocks = [shared_slots(make_spec(), T, B, SLOTS) for _ in range(WORKERS)]
        self._slots = [slots for _, slots in blocks]
        self._workers = [Worker(fill_shared, (block,)) for block, _ in blocks]
        self._sent: deque[Stamp] = deque()
        self._fence = Fence()
        self.expect = self._fence.expect

    def send(self, stamp: Stamp, size: int = 5) -> None:
        self._workers[stamp.worker].connection.send((stamp, stamp.sequence % SLOTS))
        self._sent.append(stamp)

    def receive(self) -> Rollout | None:
        worker = self._sent.popleft().worker
        stamp, index = self._workers[worker].connection.recv()
        return self._slots[worker][index].rollout if self._fence.admits(stamp) else None

    def close(self) -> None:
        close_workers(self._workers)


def send_messages(connection: Any, codec: str) -> None:
    """Packs the rollouts that are asked for."""
    with contextlib.suppress(EOFError):
        while True:
            stamp, size = connection.recv()
            slot = Slot(make_spec(size), T, B)
            write(slot, stamp)
            format = RolloutFormat(make_spec(size), T, B, frame_stack=2)
            connection.send_bytes(format.pack(slot, stamp, codec).data)


class Messages:
    """Packed rollouts through the pipes of other processes."""

    def __init__(self) -> None:
        self._workers = [Worker(send_messages, (codec,)) for codec in ("none", "lz4")]
        self._format = RolloutFormat(make_spec(), T, B, frame_stack=2)
        self._slot = Slot(make_spec(), T, B)
        self._sent: deque[Stamp] = deque()
        self._fence = Fence()
        self.expect = self._fence.expect

    def send(self, stamp: Stamp, size: int = 5) -> None:
        self._workers[stamp.worker].connection.send((stamp, size))
        self._sent.append(stamp)

    def receive(self) -> Rollout | None:
        message = self._workers[self._sent.popleft().worker].connection.recv_bytes()
        if not self._fence.admits(self._format.stamp(message)):
            return None
        self._format.unpack(message, self._slot)
        return self._slot.rollout

    def close(self) -> None:
        close_workers(self._workers)


@contextlib.contextmanager
def opened(kind: type[Any]) -> Iterator[Channel]:
    channel = kind()
    try:
        for worker in range(WORKERS):
            channel.expect(worker, 0)
        yield channel
    finally:
        channel.close()


ALL = [InProcess, SharedMemory, Messages]
OUTLIVED = [SharedMemory, Messages]  # a sender can live on beside its replacement
APART = [Messages]  # a sender can have been started with other settings


def expect_rollout(got: Rollout | None, stamp: Stamp) -> None:
    expected = Slot(make_spec(), T, B)
    write(expected, stamp)
    assert got is not None
    for a, b in zip(tree_leaves(tuple(expected.rollout)), tree_leaves(tuple(got)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ALL)
def test_rollouts_arrive_whole_in_order_and_once(kind: type[Any]) -> None:
    # The workers take turns, and are ahead of the receiver by one rollout.
    stamps = [Stamp(n % WORKERS, 0, n // WORKERS) for n in range(12)]
    with opened(kind) as channel:
        channel.send(stamps[0])
        for stamp, following in itertools.pairwise(stamps):
            channel.send(following)
            expect_rollout(channel.receive(), stamp)
        expect_rollout(channel.receive(), stamps[-1])


@pytest.mark.parametrize("kind", OUTLIVED)
def test_what_an_old_incarnation_sends_is_refused(kind: type[Any]) -> None:
    with opened(kind) as channel:
        channel.send(Stamp(0, 0, 0))
        channel.expect(0, 1)
        channel.send(Stamp(0, 0, 1))  # it does not know yet
        channel.send(Stamp(1, 0, 0))
        channel.send(Stamp(0, 1, 0))
        assert channel.receive() is None
        assert channel.receive() is None
        expect_rollout(channel.receive(), Stamp(1, 0, 0))
        expect_rollout(channel.receive(), Stamp(0, 1, 0))


@pytest.mark.parametrize("kind", APART)
def test_a_sender_with_another_schema_is_refused(kind: type[Any]) -> None:
    with opened(kind) as channel:
        channel.send(Stamp(0, 0, 0), size=6)
        channel.send(Stamp(0, 0, 0))
        with pytest.raises(MessageError, match="the sender has other settings"):
            channel.receive()
        expect_rollout(channel.receive(), Stamp(0, 0, 0))

"""Dynamic batching: many callers, each with a request, and one answer for all that wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import optree
import torch

from torchbeast.data import Tree, tree_leaves

T = TypeVar("T")

COMPUTE_TIMEOUT = 600.0  # seconds, as in TorchBeast


class ClosedBatchingQueue(RuntimeError):
    """The batcher was closed: nothing is answered any more."""


class AsyncError(RuntimeError):
    """Whoever had taken the request let go of it without an answer."""


class Waiting(Generic[T]):
    """What waits to be done together, and when there is enough of it.

    Args:
        least: so many make a batch.
        most: so many make the largest batch.
        timeout_ms: then fewer make one, counted from the oldest; None: never.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(self, least: int = 1, most: int = 1024, timeout_ms: float | None = 100) -> None:
        if least < 1:
            raise ValueError(f"Min batch size must be >= 1, got {least}")
        if most < least:
            raise ValueError(f"Max batch size must be >= min batch size, got {most} and {least}")
        self._least, self._most = least, most
        self._patience = None if timeout_ms is None else timeout_ms / 1000
        self._items: deque[tuple[T, float]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: T) -> None:
        """Lets one more wait."""
        self._items.append((item, time.monotonic()))

    def due(self) -> float | None:
        """Returns the seconds until there is a batch if nothing comes; None: there is none then."""
        if len(self._items) >= self._least:
            return 0.0
        if not self._items or self._patience is None:
            return None
        return max(0.0, self._items[0][1] + self._patience - time.monotonic())

    def take(self) -> list[T]:
        """Returns the oldest, as many as make the largest batch, due or not."""
        count = min(len(self._items), self._most)
        return [self._items.popleft()[0] for _ in range(count)]


class Request(NamedTuple):
    """What one caller asks."""

    leaves: list[Any]
    width: int
    answer: Future[Tree]

    def wanted(self) -> bool:
        """Returns whether the answer, which comes now, was not cancelled; asked once."""
        return self.answer.set_running_or_notify_cancel()


class DynamicBatcher:
    """Puts requests of many threads side by side, so that a model answers them at once.

    Callers ``compute``; one or more consumers iterate over batches::

        for batch in batcher:
            batch.set_outputs(model(batch.get_inputs()))

    Requests and answers are trees of tensors or NumPy arrays. ``minimum_batch_size`` and
    ``maximum_batch_size`` count requests; each may be as wide along ``batch_dim`` as it likes, and
    gets an answer as wide. (In TorchBeast, whose DynamicBatcher this is, every request was one
    wide.)

    Args:
        batch_dim: the dimension along which requests lie side by side.
        minimum_batch_size: requests that a batch waits for.
        maximum_batch_size: requests that a batch takes at most.
        timeout_ms: a request waits no longer for others; None: as long as it takes.
        check_outputs: answers that do not fit raise in ``set_outputs``.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(
        self,
        batch_dim: int = 1,
        minimum_batch_size: int = 1,
        maximum_batch_size: int = 1024,
        timeout_ms: float | None = 100,
        check_outputs: bool = True,
    ) -> None:
        self._batch_dim = batch_dim
        self._check_outputs = check_outputs
        self._waiting: Waiting[Request] = Waiting(
            minimum_batch_size, maximum_batch_size, timeout_ms
        )
        self._structure: Any = None  # of requests; all are alike
        self._closed = False
        self._changed = threading.Condition()

    def submit(self, nest: Tree) -> Future[Tree]:
        """Returns the answer to come; does not wait.

        Raises:
            ClosedBatchingQueue: the batcher is closed.
            ValueError: nothing in ``nest``, too few dimensions, other leaves than before, or not
                equally wide.
        """
        leaves, structure = optree.tree_flatten(nest)
        width = _width(leaves, self._batch_dim)
        answer: Future[Tree] = Future()
        with self._changed:
            if self._closed:
                raise ClosedBatchingQueue("Enqueue to closed queue")
            self._structure = self._structure or structure
            if structure != self._structure:
                raise ValueError(f"expected a nest {self._structure}, got {structure}")
            self._waiting.append(Request(leaves, width, answer))
            self._changed.notify()
        return answer

    def compute(self, nest: Tree) -> Tree:
        """Returns the answer to ``nest``, views into that of the batch; waits for it.

        Raises:
            ClosedBatchingQueue: the batcher is or was closed.
            AsyncError: a consumer dropped the batch.
            TimeoutError: it took 10 minutes.
        """
        try:
            return self.submit(nest).result(COMPUTE_TIMEOUT)
        except TimeoutError:
            raise TimeoutError("Compute timeout reached.") from None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Returns the next batch; waits for it. Ends when the batcher is closed."""
        with self._changed:
            while not self._closed:
                wait = self._waiting.due()
                if wait == 0:
                    return self._take()
                self._changed.wait(wait)
        raise StopIteration

    def size(self) -> int:
        """Returns how many requests wait."""
        return len(self._waiting)

    def is_closed(self) -> bool:
        """Returns whether the batcher was closed."""
        return self._closed

    def close(self) -> None:
        """Discards what waits, and wakes callers and consumers.

        Raises:
            RuntimeError: it was closed already.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("Queue was closed already")
            self._closed = True
            self._changed.notify_all()
        while self._waiting:
            self._break(self._waiting.take())

    def _take(self) -> Batch:
        batch = Batch(self, self._waiting.take(), self._structure)
        if self._waiting:
            self._changed.notify()  # another consumer may go on with them
        return batch

    def _break(self, requests: list[Request]) -> None:
        error: RuntimeError = AsyncError("the batch was dropped without outputs (broken promise)")
        if self._closed:
            error = ClosedBatchingQueue("Batching queue closed during compute")
        for request in requests:
            if request.wanted():
                request.answer.set_exception(error)


class Batch:
    """Requests side by side, to be answered once; when dropped, it raises in every caller."""

    def __init__(self, batcher: DynamicBatcher, requests: list[Request], structure: Any) -> None:
        self._batcher = batcher
        self._requests = requests
        self._structure = structure
        self._answered = False

    def get_inputs(self) -> Tree:
        """Returns the requests, one beside the other along the batch dimension."""
        columns = zip(*(request.leaves for request in self._requests), strict=True)
        dim = self._batcher._batch_dim
        return optree.tree_unflatten(self._structure, [_joined(x, dim) for x in columns])

    def set_outputs(self, outputs: Tree) -> None:
        """Gives each caller its slice.

        Raises:
            ValueError: they do not fit; they can be set again.
            RuntimeError: they were set already.
        """
        if self._answered:
            raise RuntimeError("set_outputs called twice")
        dim = self._batcher._batch_dim
        if self._batcher._check_outputs:
            self._check(outputs, dim)
        leaves, structure = optree.tree_flatten(outputs)
        before, end, answers = (slice(None),) * dim, 0, []
        for request in self._requests:
            start, end = end, end + request.width
            own = (*before, slice(start, end))
            answers.append(optree.tree_unflatten(structure, [x[own] for x in leaves]))
        self._answered = True  # all could be cut
        for request, answer in zip(self._requests, answers, strict=True):
            if request.wanted():
                request.answer.set_result(answer)

    def _check(self, outputs: Tree, dim: int) -> None:
        width = sum(request.width for request in self._requests)
        for leaf in tree_leaves(outputs):
            shape = tuple(leaf.shape)
            if len(shape) <= dim:
                raise ValueError(
                    f"With batch dimension {dim}, output shape must have at least {dim + 1} "
                    f"dimensions, but got {shape}"
                )
            if shape[dim] != width:
                raise ValueError(
                    f"Output shape must have the same batch dimension as the input batch size. "
                    f"Expected {width}, got {shape[dim]} in {shape}"
                )

    def __del__(self) -> None:
        if not self._answered:
            self._batcher._break(self._requests)


def _width(leaves: list[Any], dim: int) -> int:
    if not leaves:
        raise ValueError("Cannot enqueue empty vector of tensors")
    widths = set()
    for leaf in leaves:
        if leaf.ndim <= dim:
            raise ValueError(
                f"Enqueued tensors must have more than batch_dim == {dim} dimensions, but got "
                f"{leaf.ndim}"
            )
        widths.add(leaf.shape[dim])
    if len(widths) > 1:
        raise ValueError(f"expected equal sizes along batch_dim == {dim}, got {sorted(widths)}")
    return int(widths.pop())


def _joined(parts: tuple[Any, ...], dim: int) -> Any:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts, dim)
    return np.concatenate(parts, dim)

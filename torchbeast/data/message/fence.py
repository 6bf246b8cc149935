"""Which workers are heard, and in which order."""

from __future__ import annotations

from torchbeast.data.message.header import Stamp


class Fence:
    """Lets in what the current incarnation of each worker sends, each rollout once, in order.

    A worker that was taken for lost may live on beside the one that replaced it: what it still
    sends is refused.
    """

    def __init__(self) -> None:
        self._due: dict[int, Stamp] = {}

    def expect(self, worker: int, incarnation: int) -> None:
        """Hears only this incarnation of a worker from now on; its first sequence is 0."""
        self._due[worker] = Stamp(worker, incarnation, 0)

    def admits(self, stamp: Stamp) -> bool:
        """Returns whether a rollout is the next of its worker, and if so waits for the one after.

        False is final: it is of another incarnation, of no worker that is expected, came before,
        or after one that was lost.
        """
        if self._due.get(stamp.worker) != stamp:
            return False
        self._due[stamp.worker] = stamp._replace(sequence=stamp.sequence + 1)
        return True

"""The buffer of off-policy learning: what was stored may be learned from many times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchbeast.data.replay.archive import ReplayMismatch, read_folder, write_folder
from torchbeast.data.replay.memory import Array
from torchbeast.data.replay.pacing import Pacing
from torchbeast.data.replay.ring import Ring
from torchbeast.data.replay.selection import Prioritized, Uniform
from torchbeast.data.replay.windows import Sequences, Transitions
from torchbeast.data.rollout import Rollout
from torchbeast.data.slots import Slot


class Replay:
    """Stores rollouts and draws batches of windows: storage x window x selection x pacing.

    Args:
        ring: where rows are stored, still empty.
        window: what is drawn.
        selection: which of them, of ``window.num_items(ring)`` items.
        pacing: how far acting and learning may be ahead of each other.
        batch_size: windows in a batch.
        seed: of the draws.
        on_free: called with a slot that may be filled again.
        initial_priority: from windows [rows, N] without observations to priorities [N] or None,
            the largest so far, for windows that may be drawn for the first time.
    """

    def __init__(
        self,
        ring: Ring,
        window: Transitions | Sequences,
        selection: Uniform | Prioritized,
        pacing: Pacing,
        batch_size: int,
        *,
        seed: int,
        on_free: Callable[[Slot], None] = lambda slot: None,
        initial_priority: Callable[[Rollout], Any] | None = None,
    ) -> None:
        ring.check_holds(window.span)
        self.ring, self.window, self.selection, self.pacing = ring, window, selection, pacing
        self.batch_size = batch_size
        self._rng = np.random.default_rng(seed)
        self._on_free = on_free
        # Priorities do not matter where all windows are drawn alike.
        self._initial_priority = None if isinstance(selection, Uniform) else initial_priority
        # Items of the last batch, and the ring's count when they were drawn.
        self._drawn: tuple[Array, Array] | None = None

    @property
    def steps(self) -> int:
        """Returns the environment steps that were ever stored."""
        return self.pacing.stored

    def put(self, slot: Slot, lane: int = 0) -> None:
        """Stores a rollout of the actor ``lane``; the slot is free again.

        Raises:
            ValueError: it is of another shape, or its observations are no stacks of frames.
        """
        self.selection.close(self.window.closing(self.ring, lane))
        self.ring.append(lane, slot)
        opened = self.window.opened(self.ring, lane)
        self.selection.open(opened, self._first_priority(opened))
        self.pacing.stored += slot.unroll_length * slot.batch_size
        self._on_free(slot)

    def allows(self, columns: int) -> bool:
        """Returns whether rollouts of ``columns`` environments may be under way to it."""
        steps = columns * self.ring.unroll_length
        # Until there is something to draw nobody can wait for learning.
        nothing_yet = len(self.selection) == 0 and steps <= self.pacing.slack
        return nothing_yet or self.pacing.may_store(steps)

    def ready(self) -> bool:
        """Returns whether a batch may be learned from."""
        return len(self.selection) > 0 and self.pacing.may_learn()

    def get(self) -> Rollout:
        """Returns the next batch; stacked observations in it are good until the next ``put``.

        ``extras["oversampling"]`` [rows, B] is how many times more often than uniformly a window
        is drawn.

        Raises:
            RuntimeError: no batch is ready.
        """
        if not self.ready():
            raise RuntimeError(
                f"expected a replay that is ready, got {len(self.selection)} windows after "
                f"{self.pacing.stored} environment steps; ask ready() first"
            )
        items, oversampling = self.selection.draw(self.batch_size, self._rng)
        batch = self.window.cut(self.ring, items)
        self.pacing.learned += self.window.transitions(self.batch_size)
        self._drawn = items, self.ring.count.copy()
        oversampled = np.full(batch.reward.shape, oversampling, np.float32)
        return batch._replace(
            extras={**batch.extras, "oversampling": torch.from_numpy(oversampled)}
        )

    def feedback(self, priority: Any = None) -> None:
        """Gives the windows of the last batch new priorities [B], if there are any.

        Those that were written over since then are left out.

        Raises:
            ValueError: a priority is negative or not finite, or there is none for each window.
        """
        drawn, self._drawn = self._drawn, None
        if priority is None or drawn is None or isinstance(self.selection, Uniform):
            return
        items, count = drawn
        priority = _numpy(priority)
        if priority.shape != items.shape:
            raise ValueError(
                f"expected priorities [{len(items)}] of the last batch, got {priority.shape}"
            )
        if (count != self.ring.count).any():
            place = self.window.place(self.ring, items)
            same = self.ring.row(place, count) == self.ring.row(place, self.ring.count)
            items, priority = items[same], priority[same]
        self.selection.update(items, priority)

    def waiting(self) -> int:
        """Returns 0: nothing that was put has to be learned from."""
        return 0

    def metrics(self) -> dict[str, float]:
        """Returns the environment steps that are kept, and the replay ratio achieved."""
        kept = np.minimum(self.ring.count, self.ring.length).sum() * self.ring.width
        return {"replay_size": float(kept), "replay_ratio": self.pacing.achieved()}

    def save(self, folder: str | Path) -> None:
        """Writes all that is needed to draw on as if nothing had happened, in place of ``folder``.

        Raises:
            OSError: the disk does not take it; what was in ``folder`` before is untouched.
        """
        chosen, numbers = self.selection.state()
        arrays = self.ring.in_use()
        arrays |= {f"selection.{name}": [array] for name, array in chosen.items()}
        state = {
            "layout": self._layout(),
            "count": self.ring.count.tolist(),
            "stored": self.pacing.stored,
            "learned": self.pacing.learned,
            "paced_by": [self.pacing.replay_ratio, self.pacing.min_size],
            "selection": numbers,
            "random": self._rng.bit_generator.state,
        }
        write_folder(Path(folder), arrays, state)

    def restore(self, folder: str | Path) -> None:
        """Takes back what ``save`` wrote.

        Raises:
            ReplayMismatch: it is damaged, or of a replay of other shapes; this one is as before.
        """
        arrays, state = read_folder(Path(folder))
        saved, here = state["layout"], self._layout()
        for name in here | saved:
            if saved.get(name) != here.get(name):
                raise ReplayMismatch(
                    f"expected a saved replay with {name} {here.get(name)}, got "
                    f"{saved.get(name)}; give the flags that it was saved with"
                )
        self.ring.count[:] = state["count"]
        for name, parts in self.ring.in_use().items():
            start = 0
            for part in parts:
                part[...] = arrays[name][start : start + len(part)]
                start += len(part)
        prefix = "selection."
        chosen = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        self.selection.restore(chosen, state["selection"])
        self.pacing.stored, self.pacing.learned = state["stored"], state["learned"]
        if state["paced_by"] != [self.pacing.replay_ratio, self.pacing.min_size]:
            self.pacing.settle()  # the new ratio holds from here on, not from the beginning
        self._rng.bit_generator.state = state["random"]
        self._drawn = None

    def _layout(self) -> dict[str, Any]:
        """Returns what a saved replay must have in common with this one, as JSON has it."""
        chosen = {"selection": type(self.selection).__name__}
        if isinstance(self.selection, Prioritized):
            chosen["priority_exponent"] = str(self.selection.exponent)
        return {**self.ring.layout(), "window": repr(self.window), **chosen}

    def _first_priority(self, items: Array) -> Array | None:
        if self._initial_priority is None or len(items) == 0:
            return None
        priority = self._initial_priority(self.window.cut(self.ring, items, observations=False))
        return None if priority is None else _numpy(priority)


def _numpy(priority: Any) -> Array:
    return torch.as_tensor(priority).detach().cpu().numpy()

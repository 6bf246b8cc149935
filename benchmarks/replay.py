"""How fast a replay gives and takes, alone or beside rlpyt's, in turns.

    python benchmarks/replay.py
    python benchmarks/replay.py --rlpyt PATH      a checkout of github.com/astooke/rlpyt

Pictures are stacks of 4 frames of 84 x 84 bytes. A batch is timed three ways: drawn only, with
each frame that it needs copied out once, and with all its stacks made.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from torchbeast.data import EnvSpec, rollout_spec, zero_rows
from torchbeast.data.replay import (
    Pacing,
    Prioritized,
    Replay,
    Ring,
    Sequences,
    Transitions,
    Uniform,
)
from torchbeast.data.slots import Slot
from torchbeast.tools.memory import keep_freed_memory

PICTURES = EnvSpec(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(18), 4)
VECTORS = EnvSpec(spaces.Box(-1, 1, (17,)), spaces.Box(-1, 1, (6,)))
WIDTH, UNROLL = 16, 16
BURN_IN, LENGTH = 40, 84  # 125 rows, as rlpyt's R2D1 draws 120 and n_step 5
ALWAYS = 1e12  # a replay ratio that never makes anybody wait


class Timed(NamedTuple):
    """One line of the table: what is timed, and how much one call does."""

    name: str
    unit: str
    amount: int
    calls: dict[str, Callable[[], Any]]  # by column


class Filler:
    """Fills one slot with consecutive rollouts of pictures from a pool, or of vectors."""

    def __init__(self, env: EnvSpec, steps: int, width: int, state: int = 0) -> None:
        lstm = (torch.zeros(1, 1, state),) if state else ()
        self.spec = rollout_spec(zero_rows(env, 1)._replace(state=lstm))
        self.slot, self.at = Slot(self.spec, steps, width), 0
        rng = np.random.default_rng(0)
        arrays: Any = self.slot.arrays
        for name in ("reward", "prev_action", "action"):
            leaf = getattr(arrays, name)
            leaf[...] = rng.integers(0, 2, leaf.shape)
        arrays.discount.fill(1)
        arrays.version.fill(0)
        if env is PICTURES:
            self.pool = rng.integers(0, 256, (512, 84, 84), np.uint8)
        else:
            arrays.obs[...] = rng.random(arrays.obs.shape)

    def next(self) -> Slot:
        """Returns the slot with the next rollout."""
        arrays: Any = self.slot.arrays
        arrays.first.fill(False)
        arrays.first[0] = self.at == 0
        if hasattr(self, "pool"):
            steps, width = arrays.first.shape
            time_ = self.at + np.arange(steps)[:, None, None] + np.arange(-3, 1)
            frame = np.maximum(time_, 0) + 31 * np.arange(width)[:, None]
            arrays.obs[...] = self.pool[frame % len(self.pool)]
        self.at += self.slot.unroll_length
        return self.slot


def ours(filler: Filler, window: Any, size: int, prioritized: bool) -> Replay:
    """Returns an empty replay."""
    slot = filler.slot
    ring = Ring(
        filler.spec,
        unroll_length=slot.unroll_length,
        lanes=1,
        width=slot.batch_size,
        capacity=size,
        frame_stack=4 if hasattr(filler, "pool") else 1,
    )
    items = window.num_items(ring)
    selection = Prioritized(items, 0.6) if prioritized else Uniform(items)
    return Replay(ring, window, selection, Pacing(ALWAYS, 0, 0), 32, seed=0)


class Theirs:
    """A replay of rlpyt behind ``put``, ``get`` and ``feedback``."""

    def __init__(self, filler: Filler, size: int, prioritized: bool, sequences: bool) -> None:
        from rlpyt.replays.non_sequence import frame, uniform
        from rlpyt.replays.non_sequence import prioritized as pri
        from rlpyt.replays.sequence.frame import PrioritizedSequenceReplayFrameBuffer
        from rlpyt.utils.collections import namedarraytuple

        pictures = hasattr(filler, "pool")
        fields = ["observation", "action", "reward", "done"]
        fields += ["prev_rnn_state"] if sequences else []
        self.sample_type = namedarraytuple("Samples", fields)
        self.interval = filler.slot.unroll_length if sequences else 0
        self.prioritized, self.batch_size = prioritized, 32
        self.done = np.zeros((filler.slot.unroll_length, filler.slot.batch_size), bool)
        kinds = {
            (True, True): frame.PrioritizedReplayFrameBuffer,
            (True, False): frame.UniformReplayFrameBuffer,
            (False, True): pri.PrioritizedReplayBuffer,
            (False, False): uniform.UniformReplayBuffer,
        }
        settings: dict[str, Any] = {"discount": 0.99, "n_step_return": 1}
        kind = kinds[pictures, prioritized]
        if sequences:
            kind = PrioritizedSequenceReplayFrameBuffer
            settings |= {"n_step_return": 5, "rnn_state_interval": self.interval, "batch_T": 120}
        example = self._samples(filler.slot)[0, 0]
        self.buffer = kind(example=example, size=size, B=filler.slot.batch_size, **settings)

    def _samples(self, slot: Slot) -> Any:
        arrays, steps = slot.arrays, slot.unroll_length
        values = [arrays.obs[:steps], arrays.action[:steps], arrays.reward[:steps], self.done]
        if self.interval:
            state = arrays.state[0].swapaxes(0, 1)
            values.append(np.broadcast_to(state, (steps, *state.shape)))
        return self.sample_type(*values)

    def put(self, slot: Slot) -> None:
        self.buffer.append_samples(self._samples(slot))

    def get(self) -> Any:
        return self.buffer.sample_batch(self.batch_size)

    def feedback(self, priority: Any) -> None:
        self.buffer.update_batch_priorities(priority)


def draws(replay: Any, batch_size: int, prioritized: bool, after: Callable[[Any], Any]) -> Any:
    """Returns a function that draws a batch, does what comes ``after``, and says how it was."""
    priority = np.random.default_rng(0).random(batch_size)

    def call() -> None:
        replay.batch_size = batch_size
        after(replay.get())
        if prioritized:
            replay.feedback(priority)

    return call


def columns(
    own: Replay, their: Theirs | None, batch_size: int, prioritized: bool, lazy: bool
) -> Any:
    """Returns the ways of drawing a batch, by the name of their column."""
    found = {"drawn": draws(own, batch_size, prioritized, lambda batch: None)}
    if lazy:
        found["frames"] = draws(own, batch_size, prioritized, lambda batch: batch.obs.apart())
        found["stacks"] = draws(own, batch_size, prioritized, lambda batch: batch.obs.tensor())
    if their:
        found["rlpyt"] = draws(their, batch_size, prioritized, lambda batch: None)
    return found


def rates(timed: Timed, rounds: int, seconds: float) -> dict[str, float]:
    """Returns the median amount per second of each column; the columns take turns."""
    found: dict[str, list[float]] = {name: [] for name in timed.calls}
    for call in timed.calls.values():
        call()
    for _ in range(rounds):
        for name, call in timed.calls.items():
            count, begin = 0, time.perf_counter()
            while (spent := time.perf_counter() - begin) < seconds:
                call()
                count += 1
            found[name].append(timed.amount * count / spent)
    return {name: statistics.median(each) for name, each in found.items()}


def show(timed: Timed, found: dict[str, float]) -> None:
    cells = []
    for name in ("drawn", "frames", "stacks", "rlpyt"):
        if name not in found:
            cells.append(f"{'-':>16}")
            continue
        ratio = found[name] / found["rlpyt"] if "rlpyt" in found and name != "rlpyt" else None
        times = "" if ratio is None else f" ({ratio:.1f}x)"
        cells.append(f"{f'{found[name]:,.0f}{times}':>16}")
    print(f"{timed.name:<34} {timed.unit:<13}{' '.join(cells)}", flush=True)


def case(arguments: Any, pictures: bool, prioritized: bool, sequences: bool = False) -> None:
    """Fills replays of one kind, times them and prints the lines."""
    unroll = 40 if sequences else UNROLL
    filler = Filler(PICTURES if pictures else VECTORS, unroll, WIDTH, 512 if sequences else 0)
    window: Any = Sequences(BURN_IN, LENGTH) if sequences else Transitions(1, 0.99)
    size = arguments.size
    own = ours(filler, window, size, prioritized)
    their = Theirs(filler, size, prioritized, sequences) if arguments.rlpyt else None
    while own.steps < size + unroll * WIDTH:
        slot = filler.next()
        own.put(slot)
        if their:
            their.put(slot)
    kind = "prioritized" if prioritized else "uniform"
    what = "pictures" if pictures else "vectors"
    lines = []
    for batch_size in (16, 64) if sequences else (32, 256):
        name = f"{what}, {kind}{', sequences' if sequences else ''}, {batch_size}"
        ways = columns(own, their, batch_size, prioritized, pictures)
        lines.append(Timed(name, "sequences/s" if sequences else "transitions/s", batch_size, ways))
    puts = {"drawn": lambda: own.put(filler.next())}
    if their:
        puts["rlpyt"] = lambda: their.put(filler.next())
    if not pictures:
        name = f"{what}, {kind}, put {unroll} x {WIDTH}"
        lines.append(Timed(name, "steps/s", unroll * WIDTH, puts))
    for timed in lines:
        show(timed, rates(timed, arguments.rounds, arguments.seconds))


def single(arguments: Any, prioritized: bool) -> None:
    """Times appending one step of one environment."""
    filler = Filler(VECTORS, 1, 1)
    own = ours(filler, Transitions(1, 0.99), arguments.size, prioritized)
    their = Theirs(filler, arguments.size, prioritized, False) if arguments.rlpyt else None
    slot = filler.next()
    own.put(slot)
    filler.next()
    calls: dict[str, Any] = {"drawn": lambda: own.put(slot)}
    if their:
        calls["rlpyt"] = lambda: their.put(slot)
    kind = "prioritized" if prioritized else "uniform"
    timed = Timed(f"vectors, {kind}, put 1 x 1", "steps/s", 1, calls)
    show(timed, rates(timed, arguments.rounds, arguments.seconds))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rlpyt", help="a checkout to compare with")
    parser.add_argument("--size", type=int, default=600_000, help="environment steps stored")
    parser.add_argument("--rounds", type=int, default=7, help="of which the median counts")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one round")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--quick", action="store_true", help="small and short, to try it out")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.size, arguments.rounds, arguments.seconds = 20_000, 5, 0.05
    if arguments.rlpyt:
        sys.path.insert(0, arguments.rlpyt)
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as in a run
    heads = " ".join(f"{x:>16}" for x in ("drawn", "frames once", "whole stacks", "rlpyt"))
    print(f"{arguments.size:,} steps, {arguments.threads} threads\n{'':<48}{heads}")
    for pictures in (True, False):
        for prioritized in (False, True):
            case(arguments, pictures, prioritized)
            gc.collect()
    case(arguments, True, True, sequences=True)
    gc.collect()
    for prioritized in (False, True):
        single(arguments, prioritized)


if __name__ == "__main__":
    main()

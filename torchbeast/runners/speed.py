"""How fast a run is, and how fast its pieces would allow it to be."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from torchbeast.algorithms.base import Once
from torchbeast.runners.build import build
from torchbeast.runners.config import RunConfig
from torchbeast.runners.followers import Spawned
from torchbeast.runners.pieces import PieceGroup, piece_groups
from torchbeast.runners.ranks import Ranks

PIECES = ("env", "forward", "update")
WARM_UP = 2.0  # seconds of each piece at most, before the first round
MAX_SECONDS = 60.0  # of a piece: learners that wait longer for each other give up


class Range(NamedTuple):
    """A number over several rounds."""

    median: float
    min: float
    max: float


class Speed(NamedTuple):
    """Environment steps per second of each piece and of the whole, over all processes."""

    env: Range
    forward: Range
    update: Range  # with the all-reduce
    end_to_end: Range
    all_reduce_ms: Range  # per update; 0 for one learner
    bound: float  # if the pieces took turns and nothing else took time
    efficiency: float  # end_to_end / bound
    rounds: dict[str, list[float]]

    def as_dict(self) -> dict[str, Any]:
        """Returns it as plain nested data."""
        return {k: v._asdict() if isinstance(v, Range) else v for k, v in self._asdict().items()}


def measure(
    config: RunConfig,
    rounds: int = 3,
    seconds: float = 5.0,
    on_progress: Callable[[str], None] = lambda what: None,
) -> Speed:
    """Returns the speeds of a checked config, from rounds that measure each piece in turn.

    Where acting and learning overlap (actor processes, a GPU) the efficiency may exceed 1.

    Args:
        config: what to measure; logs, evaluations and checkpoints are left out.
        rounds: how often each is measured.
        seconds: how long each time, rounded to whole updates.
        on_progress: told what is measured next.

    Raises:
        ValueError: there would be nothing to measure.
        RankFailed, ActorFailed, EnvError: as in a run.
    """
    if rounds < 1:
        raise ValueError(f"expected --rounds of at least 1, got {rounds}")
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"expected --seconds above 0 and up to {MAX_SECONDS:.0f}, got {seconds}")
    on_progress("starting")
    bench = Bench(_soon_filled(config))
    try:
        on_progress("warming up")
        bench.warm_up(min(seconds, WARM_UP))
        taken: dict[str, list[float]] = {}
        for number in range(1, rounds + 1):
            for name in (*PIECES, "all_reduce", "end_to_end"):
                on_progress(f"round {number} of {rounds}: {name}")
                taken.setdefault(name, []).append(bench.measure(name, seconds))
        return summary(taken)
    finally:
        bench.close()


def _soon_filled(config: RunConfig) -> RunConfig:
    """Returns a config whose replay, which fills before the clock starts, soon has enough."""
    learned = config.algorithm
    if not hasattr(learned, "min_replay_size"):
        return config
    small = dataclasses.replace(learned, min_replay_size=min(2_000, learned.min_replay_size))
    return dataclasses.replace(config, algorithm=small)


def summary(rounds: dict[str, list[float]]) -> Speed:
    """Returns medians and ranges of what the rounds gave, with bound and efficiency."""
    ranges = {name: Range(statistics.median(x), min(x), max(x)) for name, x in rounds.items()}
    all_reduce_ms = Range(*(1000 * x for x in ranges.pop("all_reduce")))
    bound = 1 / sum(1 / ranges[name].median for name in PIECES)
    return Speed(
        **ranges,
        all_reduce_ms=all_reduce_ms,
        bound=bound,
        efficiency=ranges["end_to_end"].median / bound,
        rounds=rounds,
    )


class Bench:
    """All processes of one measurement: those of the pieces, and those of a whole run."""

    def __init__(self, config: RunConfig) -> None:
        self._groups: dict[str, PieceGroup] = {}
        self._seconds: dict[str, float] = {}  # of one repeat of each piece
        self._many = config.system.num_learners > 1
        self._whole: WholeRun | None = None
        try:
            self._groups = piece_groups(config)
            self._whole = WholeRun(config)
            for group in dict.fromkeys(self._groups.values()):
                group.await_start()
        except BaseException:
            self.close()
            raise

    def warm_up(self, seconds: float) -> None:
        """Runs everything for a moment, and learns how long a piece takes."""
        for name in (*PIECES, "all_reduce"):
            self._measure_piece(name, 1)
            self.measure(name, seconds / 4)
            self.measure(name, seconds)
        self.measure("end_to_end", seconds)

    def measure(self, name: str, seconds: float) -> float:
        """Returns steps per second of a piece or ``end_to_end``; of ``all_reduce`` its seconds."""
        if name == "end_to_end":
            assert self._whole is not None
            return self._whole.measure(seconds)
        return self._measure_piece(name, max(1, math.ceil(seconds / self._seconds[name])))

    def _measure_piece(self, name: str, repeats: int) -> float:
        if name == "all_reduce" and not self._many:
            self._seconds[name] = 1.0
            return 0.0
        answers = self._groups[name].measure(name, repeats)
        once = max(seconds for _, seconds in answers) / repeats
        self._seconds[name] = max(once, 1e-9)
        if name == "all_reduce":
            return once
        return sum(steps / seconds for steps, seconds in answers)

    def close(self) -> None:
        """Ends all processes."""
        for group in dict.fromkeys(self._groups.values()):
            group.close()
        if self._whole is not None:
            self._whole.close()


class WholeRun:
    """A run as ``train`` does it, on the parts of rank 0, without logs, evaluation, checkpoints."""

    def __init__(self, config: RunConfig) -> None:
        self._parts = build(config, 0)
        try:
            self._parts.learner.resume(0, 0)
            self._ranks = Ranks(Spawned(config), config.system.num_learners, self._parts.algorithm)
        except BaseException:
            self._parts.source.close()
            raise
        ranks = config.system.num_learners
        system, needs = config.system, self._parts.algorithm.needs
        columns = (system.num_actors * system.envs_per_actor or system.num_envs) // ranks
        steps = needs.unroll_length * columns  # of a rollout of every environment of this rank
        once = isinstance(needs, Once)
        self._replayed = not once
        per_batch = needs.steps_per_batch
        # Whole cycles are timed: an environment's rollout may make several batches.
        self._updates = 1 if system.num_actors and once else max(1, round(steps / per_batch))
        # What actor processes filled while nobody learned is not part of their speed.
        self._stock_steps = steps if system.num_actors else 0
        if system.num_actors and once:
            held = system.num_buffers * system.envs_per_actor // ranks
            self._stock_steps = held * needs.unroll_length
        self._stock = math.ceil(self._stock_steps / per_batch)

    def measure(self, seconds: float) -> float:
        """Returns the environment steps per second of acting and learning."""
        learner = self._parts.learner
        for _ in range(self._stock):
            self._update()
        # What a replay owes from the time that it filled up is not part of it either.
        while self._replayed and self._parts.source.buffer.ready():
            self._update()
        first, began, now = learner.steps, time.perf_counter(), 0.0
        while now < seconds or learner.steps == first:
            for _ in range(self._updates):
                self._update()
            now = time.perf_counter() - began
        if self._parts.algorithm.device.type == "cuda":
            torch.cuda.synchronize(self._parts.algorithm.device)
            now = time.perf_counter() - began
        learner.metrics()
        speed = (learner.steps - first) / now
        # Actor processes go on until their slots are full: the next piece is to be alone.
        time.sleep(min(10.0, 1.5 * self._stock_steps / speed))
        return speed

    def _update(self) -> None:
        self._ranks.agree(False, self._parts.learner.steps)
        self._parts.source.fill()
        with self._ranks.failing_with_traceback():
            self._parts.learner.step(self._ranks.steps)
        self._parts.source.episodes()
        self._ranks.episodes()

    def close(self) -> None:
        """Ends environments and processes."""
        self._ranks.close()
        self._parts.source.close()

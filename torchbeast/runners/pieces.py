"""The pieces of a run, each timed alone, in processes like those of the run."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from gymnasium.vector.utils import batch_space

from torchbeast import envs
from torchbeast.algorithms.gradients import sum_over_ranks
from torchbeast.data import tree_map
from torchbeast.data.process import Worker, close_workers
from torchbeast.data.slots import Slot
from torchbeast.loops.policy import Policy
from torchbeast.loops.weights import LocalWeights
from torchbeast.runners.build import build
from torchbeast.runners.config import RunConfig
from torchbeast.runners.local import LocalSource
from torchbeast.runners.process import START_TIMEOUT
from torchbeast.runners.ranks import RankFailed

NUM_ACTIONS = 64  # random actions drawn before the clock starts


class Pieces:
    """What one process of a run does, as pieces that can be repeated alone.

    ``env`` sends T random actions to all environments of the process and takes the rows;
    ``forward`` answers T rows of a real rollout; ``update`` learns from a real batch, again and
    again with learning rate 0, so that the weights stay; ``all_reduce`` sums its gradients.

    Args:
        config: a checked config without actor processes.
        rank: which of its learners this process is.
        env_threads: in place of the threads that a learner gives its environments; 0 for those.
    """

    def __init__(self, config: RunConfig, rank: int, env_threads: int = 0) -> None:
        self.algorithm, source, learner = build(config, rank)
        self.learner = learner
        self._last_step = config.system.total_steps
        assert isinstance(source, LocalSource)
        self.env = source.env
        if env_threads:
            source.close()
            self.env = envs.make(
                config.env, self.env.num_envs, rank, num_threads=env_threads
            )
            batch_size = self.algorithm.needs.batch_size
            source = LocalSource(self.algorithm, self.env, LocalWeights(), batch_size)
        self._source = source
        actions = batch_space(self.env.spec.action, self.env.num_envs)
        actions.seed(rank)
        self._actions = [actions.sample() for _ in range(NUM_ACTIONS)]
        unroll_length = self.algorithm.needs.unroll_length
        self._slot = Slot(self.algorithm.rollout_spec(), unroll_length, self.env.num_envs)
        source.actor.collect(self._slot)
        self._policy: Policy = source.actor.policy
        source.fill()
        self._batch = source.queue.get()

    def seconds(self, piece: str, repeats: int) -> float:
        """Returns the seconds that ``repeats`` of a piece take."""
        once: Callable[[], None] = getattr(self, piece)
        began = time.perf_counter()
        for _ in range(repeats):
            once()
        if self.algorithm.device.type == "cuda":
            torch.cuda.synchronize(self.algorithm.device)
        return time.perf_counter() - began

    def steps(self, piece: str) -> int:
        """Returns the environment steps in one repeat of a piece on this process."""
        if piece == "update":
            return self._batch.num_transitions
        return self._slot.unroll_length * self.env.num_envs

    def env_(self) -> None:
        """Steps the environments through T rows."""

    def forward(self) -> None:
        """Answers T rows."""
        for t in range(self._slot.unroll_length):
            self._policy.answer(self._slot.row(t))

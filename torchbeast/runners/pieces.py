"""The pieces of a run, each timed alone, in processes like those of the run."""

from __future__ import annotations

import contextlib
import copy
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
from torchbeast.algorithms.ranks import reduce_gradients
from torchbeast.data.process import Worker, close_workers
from torchbeast.data.slots import Slot
from torchbeast.loops.weights import LocalWeights
from torchbeast.runners.build import build
from torchbeast.runners.config import RunConfig
from torchbeast.runners.local import LocalSource
from torchbeast.runners.meeting import TIMEOUT, RankFailed
from torchbeast.runners.process import START_TIMEOUT

ACTING, LEARNING = ("env", "forward"), ("update", "all_reduce")
NUM_ACTIONS = 64  # random actions of each environment, drawn before the clock starts


class Pieces:
    """What one process of a run does, as pieces that are repeated alone.

    ``env`` sends T random actions to all environments of the process and takes the rows;
    ``forward`` answers T rows of a real rollout; ``update`` learns from one real batch, and the
    weights are put back afterwards; ``all_reduce`` sums the gradients.

    Args:
        config: a checked config without actor processes.
        rank: which of its learners this process is.
        env_threads: of native environments, where they are not those of a learner; 0: they are.
    """

    def __init__(self, config: RunConfig, rank: int, env_threads: int = 0) -> None:
        self._algorithm, source, _ = build(config, rank)
        assert isinstance(source, LocalSource)
        if env_threads:
            source.close()
            env = envs.make(config.env, source.env.num_envs, rank, num_threads=env_threads)
            source = LocalSource(self._algorithm, env, LocalWeights())
        self._env = source.env
        self._fresh = copy.deepcopy(self._algorithm.state_dict())
        actions = batch_space(self._env.spec.action, self._env.num_envs)
        actions.seed(rank)
        self._actions = [actions.sample() for _ in range(NUM_ACTIONS)]
        unroll_length = self._algorithm.needs.unroll_length
        self._slot = Slot(self._algorithm.rollout_spec(), unroll_length, self._env.num_envs)
        source.actor.collect(self._slot)
        self._policy = source.actor.policy
        source.fill()
        self._batch = source.buffer.get()
        self._once: dict[str, Callable[[], None]] = {
            "env": self._step_environments,
            "forward": self._answer_rows,
            "update": self._update,
            "all_reduce": self._all_reduce,
        }
        self.close = source.close

    def measure(self, piece: str, repeats: int) -> tuple[int, float]:
        """Returns the environment steps of ``repeats`` of a piece, and the seconds they took."""
        once = self._once[piece]
        began = time.perf_counter()
        for _ in range(repeats):
            once()
        if self._algorithm.device.type == "cuda":
            torch.cuda.synchronize(self._algorithm.device)
        seconds = time.perf_counter() - began
        if piece == "update":
            self._algorithm.load_state_dict(copy.deepcopy(self._fresh))
        return round(repeats * self._steps(piece)), seconds

    def _steps(self, piece: str) -> float:
        if piece in ACTING:
            return self._slot.rollout.num_transitions
        return self._algorithm.needs.steps_per_batch

    def _step_environments(self) -> None:
        for t in range(self._slot.unroll_length):
            self._env.send(self._actions[t % NUM_ACTIONS])
            self._env.recv()
        self._env.episodes()

    def _answer_rows(self) -> None:
        for t in range(self._slot.unroll_length):
            self._policy.answer(self._slot, t)

    def _update(self) -> None:
        self._algorithm.update(self._batch.to(self._algorithm.device), 0)

    def _all_reduce(self) -> None:
        reduce_gradients(list(self._algorithm.model.parameters()), average=True)


class PieceGroup:
    """Processes that each hold ``Pieces`` and repeat one at the same moment.

    Args:
        config: a checked config without actor processes, whose learners they are.
        joined: whether they sum gradients.
        env_threads: of native environments in each; 0 for a learner's.
    """

    def __init__(self, config: RunConfig, joined: bool, env_threads: int = 0) -> None:
        size = config.system.num_learners
        self._folder = tempfile.TemporaryDirectory(prefix="torchbeast-")
        store = pathlib.Path(self._folder.name) / "store" if joined and size > 1 else None
        self._workers: list[Worker] = []
        try:
            for rank in range(size):
                arguments = (config, rank, store, env_threads)
                self._workers.append(Worker(serve, arguments, name=f"bench-{rank}"))
        except BaseException:
            self.close()
            raise

    def await_start(self) -> None:
        """Returns when all processes are ready.

        Raises:
            RankFailed: one ended or took too long.
        """
        self._receive(START_TIMEOUT)

    def measure(self, piece: str, repeats: int) -> list[tuple[int, float]]:
        """Returns steps and seconds of ``repeats`` of a piece on each process, all at once.

        Raises:
            RankFailed: a process ended; the message holds its traceback.
        """
        for worker in self._workers:
            with contextlib.suppress(OSError):  # it is dead: receiving tells why
                worker.connection.send((piece, repeats))
        return self._receive(float("inf"))

    def close(self) -> None:
        """Ends the processes."""
        close_workers(self._workers)
        self._workers = []
        self._folder.cleanup()

    def _receive(self, timeout: float) -> list[Any]:
        deadline = time.monotonic() + timeout
        answers: dict[int, Any] = {}
        while len(answers) < len(self._workers):
            for rank, worker in enumerate(self._workers):
                if rank not in answers and worker.connection.poll(0.05):
                    answers[rank] = _answer(worker)
            if time.monotonic() > deadline:
                raise RankFailed(f"{self._workers[0].name} did not start in {timeout:.0f} s")
        return [answers[rank] for rank in sorted(answers)]


def _answer(worker: Worker) -> Any:
    try:
        kind, content = worker.connection.recv()
    except (EOFError, OSError):
        worker.wait(1.0)
        raise RankFailed(f"{worker.name} ended ({worker.exit_text()})") from None
    if kind == "failed":
        raise RankFailed(f"{worker.name} failed:\n{content}")
    return content


def serve(
    connection: Connection,
    config: RunConfig,
    rank: int,
    store: pathlib.Path | None,
    env_threads: int,
) -> None:
    """Repeats the pieces that are asked for, until the pipe is closed."""
    try:
        pieces = Pieces(config, rank, env_threads)
        if store is not None:
            size = config.system.num_learners
            dist.init_process_group(
                "gloo", init_method=store.as_uri(), rank=rank, world_size=size, timeout=TIMEOUT
            )
        connection.send(("ready", None))
        while True:
            try:
                piece, repeats = connection.recv()
            except EOFError:
                pieces.close()
                return
            connection.send(("done", pieces.measure(piece, repeats)))
    except Exception:
        with contextlib.suppress(OSError):
            connection.send(("failed", traceback.format_exc()))


def piece_groups(config: RunConfig) -> dict[str, PieceGroup]:
    """Returns the processes that measure each piece of a checked config.

    Learners that act themselves measure all; actor processes and learners their own pieces.
    """
    system = config.system
    if not system.num_actors:
        return dict.fromkeys((*ACTING, *LEARNING), PieceGroup(config, joined=True))
    num_envs = system.num_actors * system.envs_per_actor
    acting = dataclasses.replace(
        system,
        num_learners=system.num_actors,
        num_actors=0,
        num_envs=num_envs,
        torch_threads=1,
        disable_cuda=True,
    )
    # A batch of rollouts is one of environments; of a replay it is any.
    batch_size = config.algorithm.batch_size
    replayed = hasattr(config.algorithm, "replay_size")
    of_learners = num_envs if replayed else batch_size
    learning = dataclasses.replace(system, num_actors=0, num_envs=of_learners)
    share = dataclasses.replace(config.algorithm, batch_size=num_envs)
    actors = PieceGroup(
        dataclasses.replace(config, system=acting, algorithm=share), joined=False, env_threads=1
    )
    try:
        learners = PieceGroup(dataclasses.replace(config, system=learning), joined=True)
    except BaseException:
        actors.close()
        raise
    return dict.fromkeys(ACTING, actors) | dict.fromkeys(LEARNING, learners)

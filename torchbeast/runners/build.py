"""Makes the parts of a run from its config: algorithm, source of batches, learner."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from torchbeast import envs
from torchbeast.algorithms.base import Algorithm, Once
from torchbeast.data import EnvSpec
from torchbeast.loops.learner import Learner
from torchbeast.loops.weights import LocalWeights, SharedWeights, Weights
from torchbeast.runners.async_ import ActorPool
from torchbeast.runners.buffers import Acting, Keeping, check_buffer, make_buffer
from torchbeast.runners.cluster import ClusterPool, ObjectWeights, workers_of
from torchbeast.runners.config import RunConfig
from torchbeast.runners.devices import device, learners_here
from torchbeast.runners.jobs import actor_job, central, make_algorithm, make_envs
from torchbeast.runners.local import LocalSource
from torchbeast.runners.process import actor_seed, seed_all
from torchbeast.runners.source import Source
from torchbeast.tools.memory import keep_freed_memory

SMALL = 100_000  # weights in the largest layer of a network that one thread computes fastest


class Parts(NamedTuple):
    """What one learner process is made of."""

    algorithm: Algorithm
    source: Source
    learner: Learner


def build(
    config: RunConfig, rank: int, steps: int = 0, on_wait: Callable[[], None] | None = None
) -> Parts:
    """Returns the parts of learner ``rank`` of a checked config, for a run that did ``steps``.

    ``on_wait`` is called often while acting or waiting, and may raise Interrupted.
    """
    keep_freed_memory()
    spec = envs.spec(config.env)
    algorithm = make_algorithm(config, spec, config.system.num_learners)
    algorithm.to(device(config.system, rank))
    torch.set_num_threads(config.system.torch_threads or _threads(config, algorithm))
    seed = rank_seed(config.system.seed, rank, steps)
    acting = acting_of(config, rank)
    keeping = Keeping(seed, config.system.replay_dir, config.system.replay_whole_stacks)
    make_source = _actors if config.system.num_actors else _acting_here
    if config.cluster.runner == "cluster":
        make_source = _on_cluster
    source, weights = make_source(config, spec, algorithm, seed, acting, keeping, on_wait)
    return Parts(algorithm, source, Learner(algorithm, source.buffer, weights))


def acting_of(config: RunConfig, rank: int) -> Acting:
    """Returns which environments learner ``rank`` has among those of all."""
    system, ranks = config.system, config.system.num_learners
    lanes, width = 1, system.num_envs // ranks
    if system.num_actors:
        lanes, width = system.num_actors // ranks, system.envs_per_actor
    return Acting(width, lanes, rank * lanes * width, ranks * lanes * width)


def _acting_here(
    config: RunConfig,
    spec: EnvSpec,
    algorithm: Algorithm,
    seed: int,
    acting: Acting,
    keeping: Keeping,
    on_wait: Callable[[], None] | None,
) -> tuple[Source, Weights]:
    seed = actor_seed(seed, 0)  # as the first actor process, so that both act the same
    seed_all(seed)
    threads = max(1, cores() // learners_here(config))
    env = make_envs(config, threads, acting.width, seed, acting.first // acting.width)
    weights = LocalWeights()
    source = LocalSource(algorithm, env, weights, on_wait, acting, keeping)
    seed_all(seed)  # after all that draws random numbers of its own
    return source, weights


def _actors(
    config: RunConfig,
    spec: EnvSpec,
    algorithm: Algorithm,
    seed: int,
    acting: Acting,
    keeping: Keeping,
    on_wait: Callable[[], None] | None,
) -> tuple[Source, Weights]:
    system = config.system
    num_buffers = system.num_buffers // system.num_learners
    check_buffer(algorithm, acting, num_buffers)
    weights = SharedWeights(algorithm.model)
    source = ActorPool(
        actor_job(config, spec, algorithm),
        algorithm,
        weights,
        acting=acting,
        make_buffer=functools.partial(make_buffer, algorithm, acting, keeping),
        num_buffers=num_buffers,
        seed=seed,
        on_wait=on_wait or _nothing,
        central=central(system, algorithm.device),
        max_restarts=system.max_restarts,
        step_timeout=system.step_timeout,
    )
    torch.manual_seed(seed)  # what updates draw, noise for instance, differs between learners
    return source, weights


def _on_cluster(
    config: RunConfig,
    spec: EnvSpec,
    algorithm: Algorithm,
    seed: int,
    acting: Acting,
    keeping: Keeping,
    on_wait: Callable[[], None] | None,
) -> tuple[Source, Weights]:
    num_buffers = config.system.num_buffers // config.system.num_learners
    check_buffer(algorithm, acting, num_buffers)
    weights = ObjectWeights(algorithm.model)
    source = ClusterPool(
        algorithm,
        weights,
        workers_of(config, spec, algorithm.needs, acting, seed),
        make_buffer=functools.partial(make_buffer, algorithm, acting, keeping),
        num_buffers=acting.slots_each(num_buffers) * acting.lanes,
        on_wait=on_wait or _nothing,
        max_restarts=config.system.max_restarts,
    )
    torch.manual_seed(seed)
    return source, weights


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(config: RunConfig, algorithm: Algorithm) -> int:
    """Returns the threads of PyTorch that a learner computes fastest with."""
    # Small products lose more to the meetings of threads than they gain by sharing.
    if max(p.numel() for p in algorithm.model.parameters()) <= SMALL:
        return 1
    needs, own = algorithm.needs, cores() // learners_here(config)
    # Actors that go on meanwhile compute too, and threads that wait for each other's cores crawl.
    meanwhile = isinstance(needs, Once) and needs.max_lag != 0 and config.system.num_actors
    return max(1, own // 2 if meanwhile else own)


def rank_seed(seed: int, rank: int, steps: int = 0) -> int:
    """Returns the seed of acting on ``rank``: a stream of its own for each rank and resume."""
    return int(np.random.SeedSequence([seed, rank, steps]).generate_state(1)[0])


def _nothing() -> None:
    pass

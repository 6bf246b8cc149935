"""Makes the parts of a run from its config: algorithm, source of batches, learner."""

from __future__ import annotations

import dataclasses
import functools
import os
import traceback
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from torchbeast import algorithms, envs, user_code
from torchbeast.algorithms.base import Algorithm, Needs, Once, Replayed
from torchbeast.data import EnvSpec
from torchbeast.data.queue import check_divides
from torchbeast.loops.alternating import in_groups
from torchbeast.loops.learner import Learner
from torchbeast.loops.weights import LocalWeights, SharedWeights, Weights
from torchbeast.runners.async_ import ActorPool
from torchbeast.runners.buffers import Acting, Keeping
from torchbeast.runners.config import RunConfig
from torchbeast.runners.local import LocalSource
from torchbeast.runners.process import actor_seed, seed_all
from torchbeast.runners.ranges import check_ranges
from torchbeast.runners.source import ActingJob, Source
from torchbeast.tools.memory import keep_freed_memory

REPLAYED_ENVS = 8  # of a learner with a replay, by default: many are answered at once
SMALL = 100_000  # weights in the largest layer of a network that one thread computes fastest


class ConfigError(ValueError):
    """The settings of a run do not fit together; nothing was started."""


class Parts(NamedTuple):
    """What one learner process is made of."""

    algorithm: Algorithm
    source: Source
    learner: Learner


def checked(config: RunConfig) -> RunConfig:
    """Returns ``config`` with every automatic setting filled in, before any process starts.

    Raises:
        ConfigError: settings that are out of range or do not fit together.
    """
    system = config.system
    batch_size = config.algorithm.batch_size
    _at_least(1, total_steps=system.total_steps, num_learners=system.num_learners)
    _at_least(1, batch_size=batch_size, unroll_length=config.algorithm.unroll_length)
    _at_least(1, envs_per_actor=system.envs_per_actor)
    _at_least(0, num_actors=system.num_actors, num_envs=system.num_envs, seed=system.seed)
    _at_least(0, num_buffers=system.num_buffers, eval_episodes=config.output.eval_episodes)
    config = _with_full_paths(config)
    try:
        check_ranges(config)
        _check_precision(config, device(config))
        _divides("batch_size", batch_size, system.num_learners)
        with torch.random.fork_rng(devices=[]):
            needs = make_algorithm(config, _spec(config.env), system.num_learners).needs
        system = dataclasses.replace(system, num_envs=_num_envs(config, needs))
        _check_shares(dataclasses.replace(config, system=system), needs)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(str(error)) from error
    if system.num_actors:
        columns = system.envs_per_actor
        together = batch_size if isinstance(needs, Once) else columns
        needed = max(2 * system.num_actors, -(-2 * together // columns))
        num_buffers = system.num_buffers or needed
        if num_buffers < system.num_actors or num_buffers * columns < together:
            raise ConfigError(
                f"expected num_buffers of at least {max(system.num_actors, together // columns)} "
                f"(one for each of {system.num_actors} actors, and a batch of {batch_size}), got "
                f"{num_buffers}; raise --num_buffers or leave it out"
            )
        system = dataclasses.replace(system, num_buffers=num_buffers)
    return dataclasses.replace(config, system=system)


def _spec(config: envs.EnvConfig) -> EnvSpec:
    """Returns the spec of the environment; what its own code raises is told with its traceback."""
    if config.life_loss and not envs.registry.is_atari(config):
        raise ValueError(f"expected an Atari game for --life_loss, got {config.name}")
    try:
        return envs.spec(config)
    except ValueError:
        raise
    except Exception as error:
        raise ConfigError(f"{config.name} cannot be made\n{traceback.format_exc()}") from error


def _with_full_paths(config: RunConfig) -> RunConfig:
    """Returns ``config`` with files of the user's named so that they are found from any folder."""
    env = dataclasses.replace(config.env, env=user_code.absolute(config.env.env))
    network = dataclasses.replace(
        config.network, network=user_code.absolute(config.network.network)
    )
    return dataclasses.replace(config, env=env, network=network)


def _num_envs(config: RunConfig, needs: Needs) -> int:
    """Returns --num_envs; by default two batches, so that both halves learn from one rollout."""
    if config.system.num_actors or config.system.num_envs:
        return config.system.num_envs
    if isinstance(needs, Replayed):
        return REPLAYED_ENVS * config.system.num_learners
    batch_size = int(config.algorithm.batch_size)
    return batch_size if needs.max_lag == 0 else 2 * batch_size


def _check_shares(config: RunConfig, needs: Needs) -> None:
    system = config.system
    ranks = system.num_learners
    if system.num_actors:
        _divides("num_actors", system.num_actors, ranks)
        columns = system.envs_per_actor
    else:
        _divides("num_envs", system.num_envs, ranks)
        columns = system.num_envs // ranks
    if isinstance(needs, Once):
        check_divides(needs.batch_size, columns)
        _check_lag(needs, columns)
    else:
        _check_replay(config, needs)
    groups, workers = system.env_groups, config.env.env_workers
    if columns % groups:
        raise ValueError(
            f"expected --env_groups to divide the {columns} environments, got {groups}; change "
            f"--env_groups, --num_envs or --envs_per_actor"
        )
    if workers < 0 or (workers and columns // groups % workers):
        what = f"{columns // groups} environments"
        if groups > 1:
            what += f" of each of the {groups} groups (--env_groups), which has its own workers"
        raise ValueError(
            f"expected --env_workers to divide the {what}, got {workers}; change "
            f"--env_workers, --num_envs or --envs_per_actor"
        )


def _check_lag(needs: Once, columns: int) -> None:
    max_lag = needs.max_lag
    if max_lag is not None and columns > (max_lag + 1) * needs.batch_size:
        raise ValueError(
            f"expected at most {(max_lag + 1) * needs.batch_size} environments in a rollout "
            f"for --max_lag {max_lag}, got {columns}; raise --batch_size with --num_envs (or "
            f"--envs_per_actor), or lower them"
        )


def _check_replay(config: RunConfig, needs: Replayed) -> None:
    system, ranks = config.system, config.system.num_learners
    if needs.min_size > needs.capacity:
        raise ValueError(
            f"expected --min_replay_size of at most --replay_size {needs.capacity * ranks}, got "
            f"{needs.min_size * ranks}"
        )
    if needs.min_size * ranks >= system.total_steps:
        raise ValueError(
            f"expected --total_steps above --min_replay_size {needs.min_size * ranks}, got "
            f"{system.total_steps}: nothing would be learned"
        )
    if config.output.checkpoint_replay and ranks > 1:
        raise ValueError(
            f"expected one learner for --checkpoint_replay, got {ranks}: the replays of the others "
            f"are not saved"
        )
    envs_of_rank = (system.num_actors * system.envs_per_actor or system.num_envs) // ranks
    rows = needs.window.span + needs.unroll_length + 8
    if needs.capacity < rows * envs_of_rank:
        raise ValueError(
            f"expected --replay_size of at least {rows * envs_of_rank * ranks}, {rows} steps of "
            f"each of {envs_of_rank * ranks} environments, got {needs.capacity * ranks}"
        )


def _divides(name: str, value: int, ranks: int) -> None:
    if value % ranks:
        raise ValueError(
            f"expected --{name} to be a multiple of the {ranks} learners, got {value}; change "
            f"--{name} or --num_learners"
        )


def _at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise ConfigError(f"expected --{name} of at least {least}, got {value}")


def device(config: RunConfig) -> torch.device:
    """Returns where the learner computes.

    Raises:
        ValueError: there is no such device.
    """
    name = config.system.device
    if config.system.disable_cuda or name == "cpu":
        return torch.device("cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ValueError(f"expected --device auto, cpu, cuda or cuda:N, got {name}") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"expected one of {torch.cuda.device_count()} CUDA devices, got --device {name}; "
            f"use --device auto"
        )
    return chosen


def _check_precision(config: RunConfig, where: torch.device) -> None:
    on_cpu = where.type == "cpu" or config.system.num_actors > 0  # actors always are
    # Without the instructions convolutions take a path that is a hundred times slower.
    bf16 = config.network.precision == "bf16"
    if bf16 and on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError(
            "expected a CPU with bfloat16 instructions (AVX-512 or AMX) or a GPU for "
            "--precision bf16, and this one has none; use --precision float32"
        )


def make_algorithm(config: RunConfig, spec: EnvSpec, ranks: int) -> Algorithm:
    """Returns the algorithm with one rank's share of the batch; seeded, so equal on all ranks."""
    torch.manual_seed(config.system.seed)
    shared = ("batch_size", "replay_size", "min_replay_size")
    share = dataclasses.replace(
        config.algorithm,
        **{
            k: getattr(config.algorithm, k) // ranks for k in shared if hasattr(config.algorithm, k)
        },
    )
    algorithm = algorithms.find(config.algo)
    return algorithm(share, config.network, spec, config.system.total_steps)


def build(
    config: RunConfig, rank: int, steps: int = 0, on_wait: Callable[[], None] | None = None
) -> Parts:
    """Returns the parts of learner ``rank`` of a checked config, for a run that did ``steps``.

    ``on_wait`` is called often while acting or waiting, and may raise Interrupted.
    """
    keep_freed_memory()
    spec = envs.spec(config.env)
    algorithm = make_algorithm(config, spec, config.system.num_learners)
    algorithm.to(device(config))
    torch.set_num_threads(config.system.torch_threads or _threads(config, algorithm))
    seed = rank_seed(config.system.seed, rank, steps)
    acting = _acting(config, rank)
    keeping = Keeping(seed, config.system.replay_dir, config.system.replay_whole_stacks)
    make_source = _actors if config.system.num_actors else _acting_here
    source, weights = make_source(config, spec, algorithm, seed, acting, keeping, on_wait)
    return Parts(algorithm, source, Learner(algorithm, source.buffer, weights))


def _acting(config: RunConfig, rank: int) -> Acting:
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
    threads = max(1, _cores() // config.system.num_learners)
    env = _make_envs(config, threads)(acting.width, seed)
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
    system, ranks = config.system, config.system.num_learners
    weights = SharedWeights(algorithm.model)
    source = ActorPool(
        ActingJob(
            functools.partial(make_algorithm, config, spec, ranks),
            _make_envs(config, num_threads=1),
            algorithm.needs.unroll_length,
        ),
        algorithm,
        weights,
        acting=acting,
        keeping=keeping,
        num_buffers=system.num_buffers // ranks,
        seed=seed,
        on_wait=on_wait or _nothing,
        max_restarts=system.max_restarts,
        step_timeout=system.step_timeout,
    )
    return source, weights


def _make_envs(config: RunConfig, num_threads: int) -> Callable[[int, int], envs.VectorEnv]:
    """Returns the function of (num_envs, seed) that makes environments in --env_groups.

    Each group has all of the threads: it steps while the others are answered or wait.
    """
    threads = config.env.env_threads or num_threads
    make = functools.partial(envs.make, config.env, num_threads=threads)
    return functools.partial(in_groups, make, config.system.env_groups)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(config: RunConfig, algorithm: Algorithm) -> int:
    """Returns the threads of PyTorch that a learner computes fastest with."""
    # Small products lose more to the meetings of threads than they gain by sharing.
    weights = max(p.numel() for p in algorithm.model.parameters())
    return max(1, _cores() // config.system.num_learners) if weights > SMALL else 1


def rank_seed(seed: int, rank: int, steps: int = 0) -> int:
    """Returns the seed of acting on ``rank``: a stream of its own for each rank and resume."""
    return int(np.random.SeedSequence([seed, rank, steps]).generate_state(1)[0])


def _nothing() -> None:
    pass

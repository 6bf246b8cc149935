"""What acting needs, wherever it runs, made from a config: the algorithm and its environments."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch

from torchbeast import algorithms, envs
from torchbeast.algorithms.base import Algorithm
from torchbeast.data import EnvSpec
from torchbeast.loops.alternating import in_groups
from torchbeast.runners.config import RunConfig
from torchbeast.runners.source import ActingJob


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


def actor_job(config: RunConfig, spec: EnvSpec, algorithm: Algorithm) -> ActingJob:
    """Returns what the actors of one learner, or of one worker of a cluster, need."""
    make = functools.partial(make_algorithm, config, spec, config.system.num_learners)
    return ActingJob(make, make_envs(config, num_threads=1), algorithm.needs.unroll_length)


def make_envs(config: RunConfig, num_threads: int) -> Callable[[int, int], envs.VectorEnv]:
    """Returns the function of (num_envs, seed) that makes environments in --env_groups.

    Each group has all of the threads: it steps while the others are answered or wait. Each
    environment server has groups of its own.
    """
    threads = config.env.env_threads or num_threads
    servers = config.env.env_servers
    places = [dataclasses.replace(config.env, env_servers=(server,)) for server in servers]
    makes = [
        functools.partial(envs.make, place, num_threads=threads)
        for place in places or [config.env]
        for _ in range(config.system.env_groups)
    ]
    return functools.partial(in_groups, makes)

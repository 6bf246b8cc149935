"""What acting needs, wherever it runs, made from a config: the algorithm and its environments."""

from __future__ import annotations

import dataclasses
import functools

import torch

from torchbeast import algorithms, envs
from torchbeast.algorithms.base import Algorithm
from torchbeast.data import EnvSpec
from torchbeast.loops.alternating import in_groups
from torchbeast.runners.config import RunConfig, SystemConfig
from torchbeast.runners.devices import inference_device
from torchbeast.runners.inference import Central
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
    return ActingJob(make, functools.partial(make_envs, config, 1), algorithm.needs.unroll_length)


def central(system: SystemConfig, learner: torch.device) -> Central | None:
    """Returns how one process answers all actors of a learner; None if each answers itself.

    ``learner`` is where the learner computes. Half of the threads of this process, which learns
    meanwhile, are free for it.
    """
    if system.inference == "local":
        return None
    auto = system.inference_device == "auto"
    return Central(
        learner if auto else inference_device(system, learner.index or 0),
        system.inference_min_batch,
        system.inference_max_batch,
        system.inference_timeout_ms,
        system.inference_threads or max(1, torch.get_num_threads() // 2),
    )


def make_envs(
    config: RunConfig, num_threads: int, num_envs: int, seed: int, actor: int
) -> envs.VectorEnv:
    """Returns the environments of one ``actor`` among those of all learners, in --env_groups.

    Each group has all of the threads: it steps while the others are answered or wait. Each
    environment server has groups of its own.
    """
    threads = config.env.env_threads or num_threads
    timeout = config.system.step_timeout
    servers = servers_of(config, actor)
    places = [dataclasses.replace(config.env, env_servers=(server,)) for server in servers]
    makes = [
        functools.partial(envs.make, place, num_threads=threads, step_timeout=timeout)
        for place in places or [config.env]
        for _ in range(config.system.env_groups)
    ]
    return in_groups(makes, num_envs, seed)


def servers_of(config: RunConfig, actor: int) -> tuple[str, ...]:
    """Returns the environment servers of one ``actor``, or of a learner that acts itself.

    Actors share them: with as many servers as actors each has its own, with more each has several,
    with fewer several actors have one.

    Raises:
        ValueError: they cannot share equally.
    """
    servers = config.env.env_servers
    actors = config.system.num_actors or config.system.num_learners
    if servers and len(servers) % actors and actors % len(servers):
        who = "--num_actors" if config.system.num_actors else "--num_learners"
        raise ValueError(
            f"expected as many --env_servers as {who} {actors}, or a multiple or divisor of that, "
            f"got {len(servers)}; name more or fewer servers, or change {who}"
        )
    return servers[actor % len(servers) :: actors] if servers else ()

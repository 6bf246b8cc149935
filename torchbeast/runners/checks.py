"""Checks the settings of a run before anything starts, and fills in the automatic ones."""

from __future__ import annotations

import dataclasses
import pathlib
import traceback

import torch

from torchbeast import envs, user_code
from torchbeast.algorithms.base import Algorithm, Needs, Once, Replayed
from torchbeast.data import EnvSpec
from torchbeast.data.queue import check_divides
from torchbeast.data.replay import Replay
from torchbeast.data.shared import available_memory
from torchbeast.runners.buffers import Keeping, make_buffer
from torchbeast.runners.build import acting_of
from torchbeast.runners.config import RunConfig
from torchbeast.runners.devices import device, inference_device, learners_here
from torchbeast.runners.jobs import make_algorithm, servers_of
from torchbeast.runners.ranges import check_ranges
from torchbeast.runners.served import met

REPLAYED_ENVS = 8  # of a learner with a replay, by default: many are answered at once


class ConfigError(ValueError):
    """The settings of a run do not fit together; nothing was started."""


def checked(config: RunConfig) -> RunConfig:
    """Returns ``config`` with every automatic setting filled in, before any process starts.

    Raises:
        ConfigError: settings that are out of range or do not fit together.
        EnvError: an environment server is not there, or refuses.
    """
    system = config.system
    batch_size = config.algorithm.batch_size
    _at_least(1, total_steps=system.total_steps, num_learners=system.num_learners)
    _at_least(1, batch_size=batch_size, unroll_length=config.algorithm.unroll_length)
    _at_least(1, envs_per_actor=system.envs_per_actor)
    _at_least(0, num_actors=system.num_actors, num_envs=system.num_envs, seed=system.seed)
    _at_least(0, num_buffers=system.num_buffers, eval_episodes=config.output.eval_episodes)
    config = _with_full_paths(config)
    system = config.system
    try:
        check_ranges(config)
        _check_precision(config)
        _check_inference(config)
        _divides("batch_size", batch_size, system.num_learners)
        with torch.random.fork_rng(devices=[]):
            algorithm = make_algorithm(config, _spec(config), system.num_learners)
        needs = algorithm.needs
        system = dataclasses.replace(system, num_envs=_num_envs(config, needs))
        _check_shares(dataclasses.replace(config, system=system), needs)
        _check_replay(dataclasses.replace(config, system=system), algorithm)
    except envs.EnvError:  # of servers: it is not the settings that are wrong
        raise
    except (ValueError, RuntimeError, MemoryError) as error:
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


def _spec(config: RunConfig) -> EnvSpec:
    """Returns the spec of the environment; what its own code raises is told with its traceback."""
    env = config.env
    if env.life_loss and not envs.registry.is_atari(env):
        raise ValueError(f"expected an Atari game for --life_loss, got {env.name}")
    if env.env_servers:
        return met(config)
    try:
        return envs.spec(env)
    except ValueError:
        raise
    except Exception as error:
        raise ConfigError(f"{env.name} cannot be made\n{traceback.format_exc()}") from error


def _with_full_paths(config: RunConfig) -> RunConfig:
    """Returns ``config`` with files of the user's named so that they are found from any folder."""
    env = dataclasses.replace(config.env, env=user_code.absolute(config.env.env))
    network = dataclasses.replace(
        config.network, network=user_code.absolute(config.network.network)
    )
    folder = config.system.replay_dir
    if folder is not None:
        folder = str(pathlib.Path(folder).expanduser().absolute())
    system = dataclasses.replace(config.system, replay_dir=folder)
    return dataclasses.replace(config, env=env, network=network, system=system)


def _num_envs(config: RunConfig, needs: Needs) -> int:
    """Returns --num_envs; by default two batches, so that both halves learn from one rollout."""
    if config.system.num_actors or config.system.num_envs:
        return config.system.num_envs
    if not isinstance(needs, Once):
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
    each = config.cluster.actors_per_worker
    if config.cluster.runner == "cluster" and each and system.num_actors // ranks % each:
        raise ValueError(
            f"expected --actors_per_worker to divide the {system.num_actors // ranks} actors of "
            f"{'each learner' if ranks > 1 else 'the learner'}, got {each}; change it or "
            f"--num_actors, or say --actors_per_worker 0"
        )
    if isinstance(needs, Once):
        check_divides(needs.batch_size, columns)
        _check_lag(needs, columns)
    groups, workers = system.env_groups, config.env.env_workers
    servers = len(servers_of(config, 0))
    if columns % (groups * max(1, servers)):
        what = f"{groups} for each of {servers} --env_servers" if servers > 1 else str(groups)
        raise ValueError(
            f"expected --env_groups to divide the {columns} environments, got {what}; change "
            f"--env_groups, --num_envs or --envs_per_actor"
        )
    if servers and workers:
        raise ValueError(
            f"expected no --env_workers with --env_servers, got {workers}; give them to "
            f"`torchbeast serve`"
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


def _check_replay(config: RunConfig, algorithm: Algorithm) -> None:
    """Raises ValueError unless the replay can be made and filled; makes one, and lets it go."""
    system, output, ranks = config.system, config.output, config.system.num_learners
    needs = algorithm.needs
    if isinstance(needs, Once):
        for flag, given in (
            ("checkpoint_replay", output.checkpoint_replay),
            ("replay_dir", system.replay_dir),
            ("replay_whole_stacks", system.replay_whole_stacks),
        ):
            if given:
                raise ValueError(
                    f"expected an algorithm with a replay for --{flag}, got {config.algo}, which "
                    f"learns once from what it does; leave --{flag} out"
                )
        return
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
    if output.checkpoint_replay and ranks > 1:
        raise ValueError(
            f"expected one learner for --checkpoint_replay, got {ranks}: the replays of the others "
            f"are not saved"
        )
    _check_room(config, algorithm)


def _check_room(config: RunConfig, algorithm: Algorithm) -> None:
    system, needs = config.system, algorithm.needs
    acting, folder = acting_of(config, 0), system.replay_dir
    assert isinstance(needs, Replayed)
    columns = acting.lanes * acting.width
    rows = needs.window.span + needs.unroll_length + algorithm.spec.frame_stack
    if needs.capacity < rows * columns:
        raise ValueError(
            f"expected --replay_size of at least {rows * columns * system.num_learners}, {rows} "
            f"steps of each of {columns * system.num_learners} environments, got "
            f"{needs.capacity * system.num_learners}"
        )
    if folder is not None:
        if not pathlib.Path(folder).is_dir():
            raise ValueError(f"expected a folder for --replay_dir, got {folder}; make it first")
        return  # its disk is asked when the file is made
    # Memory is taken as it is written to: what is made here costs nothing.
    keeping = Keeping(whole_stacks=system.replay_whole_stacks)
    replay = make_buffer(algorithm, acting, keeping, lambda slot: None)
    assert isinstance(replay, Replay)
    here = learners_here(config)
    needed, available = replay.ring.num_bytes * here, available_memory()
    if needed > available:
        raise ValueError(
            f"expected {needed / 1e9:.2f} GB for the replays of {here} learners, "
            f"and the machine has {available / 1e9:.2f} GB left; lower --replay_size, or keep them "
            f"on a disk with --replay_dir"
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


def _check_precision(config: RunConfig) -> None:
    system = config.system
    where = [device(system)]
    if system.num_actors:
        central = system.inference == "central"
        where.append(inference_device(system) if central else torch.device("cpu"))
    on_cpu = any(place.type == "cpu" for place in where)
    # Without the instructions convolutions take a path that is a hundred times slower.
    bf16 = config.network.precision == "bf16"
    if bf16 and on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError(
            "expected a CPU with bfloat16 instructions (AVX-512 or AMX) or a GPU for "
            "--precision bf16, and this one has none; use --precision float32"
        )


def _check_inference(config: RunConfig) -> None:
    system = config.system
    if system.inference == "local":
        return
    if not system.num_actors:
        raise ValueError(
            "expected actor processes for --inference central, got none: one process acts and "
            "answers for itself; give --num_actors, or leave --inference out"
        )
    least, most = system.inference_min_batch, system.inference_max_batch
    actors = system.num_actors // system.num_learners
    if least > min(most, actors):
        raise ValueError(
            f"expected --inference_min_batch of at most {min(most, actors)} (--inference_max_batch "
            f"{most}, {actors} actors of each learner), got {least}: every answer would wait"
        )

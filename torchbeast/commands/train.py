"""`torchbeast train` and `torchbeast resume`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from torchbeast import envs
from torchbeast.algorithms import ALGORITHMS
from torchbeast.commands.errors import UsageError
from torchbeast.commands.flags import parse, train_config
from torchbeast.envs.vector import Episode
from torchbeast.runners.checks import checked
from torchbeast.runners.cluster.learners import ClusterFollowers
from torchbeast.runners.cluster.plan import planned
from torchbeast.runners.cluster.session import connected, cpus
from torchbeast.runners.cluster.supervise import supervise
from torchbeast.runners.config import RunConfig, load_config, to_dict
from torchbeast.runners.followers import Followers, Torchrun
from torchbeast.runners.run import Result
from torchbeast.runners.run import train as run_training
from torchbeast.tools import checkpoint, run_directory
from torchbeast.tools.run_directory import RunDirectory, expand, find_run

# Settings of environment and network that a run may be continued with others of.
NOT_SHAPES = (
    *("env_workers", "env_threads", "env_servers", "env_token", "env_certificate"),
    "precision",
)


def train(arguments: Sequence[str]) -> int:
    """Returns the exit code of ``torchbeast train ALGORITHM [flags]``."""
    names = ", ".join(ALGORITHMS)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise UsageError(f"expected an algorithm first: {names}, or path/to/file.py:Class")
    name, *rest = arguments
    if name in ("-h", "--help"):
        print(
            f"usage: torchbeast train ALGORITHM [flags]\n\nALGORITHM is {names}, or your own "
            f"(path/to/file.py:Class).\nIts flags: torchbeast train ppo --help"
        )
        return 0
    config = train_config(name, f"torchbeast train {name}", rest)
    if config is None:
        return 0
    _refuse_unused_address(config)
    return launch(config)


def resume(arguments: Sequence[str]) -> int:
    """Returns the exit code of ``torchbeast resume RUN [flags]``: flags change settings."""
    path, rest = run_argument("resume", arguments)
    if not checkpoint.has_checkpoint(path):
        raise UsageError(f"expected a checkpoint in {path}, got none; start anew with `train`", 7)
    saved = config_of(path)
    output = dataclasses.replace(
        saved.output, xpid=path.name, savedir=str(path.parent), restart="resume"
    )
    base = dataclasses.replace(saved, output=output)
    config = parse(base, f"torchbeast resume {path.name}", rest)
    if config.cluster.address != base.cluster.address:
        _refuse_unused_address(config)
    return launch(config)


def launch(config: RunConfig) -> int:
    """Returns the exit code of a run, on this machine or on a cluster."""
    if config.cluster.runner == "cluster":
        # What is wrong is told before a cluster is asked; this one has room for the smallest run.
        room = config.system.num_learners * (1.0 + config.cluster.cpus_per_actor)
        checked(planned(config, [room]))
        return supervise(config, learn_on_cluster)
    return learn(config)


def learn_on_cluster(config: RunConfig, stopped: Callable[[], bool]) -> int:
    """Returns the exit code of a run whose actors are those of a cluster, unless it is stopped."""
    cluster = config.cluster
    followers = config.system.num_learners - 1
    with connected(cluster.address, cluster.cluster_token, cluster.trust_network, followers) as ray:
        if stopped():
            return 130
        found = cpus(ray)
        config = planned(config, found)
        system, each = config.system, config.cluster.actors_per_worker
        if each * cluster.cpus_per_actor > max(found):
            print(
                f"no node has the {each * cluster.cpus_per_actor:g} CPUs of a worker with {each} "
                f"actors: they wait for one that joins; --actors_per_worker makes smaller ones",
                file=sys.stderr,
            )
        print(
            f"{system.num_actors} actors in {system.num_actors // each} workers on a cluster of "
            f"{len(ray.nodes())} nodes; workers take a while to start"
        )
        return learn(config, ClusterFollowers)


def learn(
    config: RunConfig,
    elsewhere: Callable[[RunConfig], Followers] | None = None,
    again: str = "torchbeast resume {run}",
) -> int:
    """Returns the exit code of a run: checks it, opens its directory, trains, says how it went.

    ``elsewhere`` makes the other learners of a checked config; None: torchrun did, or ``train``
    does. ``again`` is what continues it if it was stopped, with {run}, or its {xpid}, filled in.
    """
    torchrun = None if elsewhere else Torchrun.here()
    if torchrun is not None:
        config = torchrun.applied(config)
    config = checked(config)
    if torchrun is not None and torchrun.rank > 0:
        torchrun.follow(config)
        return 0
    followers = elsewhere(config) if elsewhere else torchrun
    _prepare_directory(config)
    with RunDirectory(config.output.savedir, config.output.xpid, to_dict(config)) as directory:
        result = run_training(config, directory, followers)
        directory.close(successful=result.exit_code == 0)
    print(_closing_words(config, result, again))
    if result.exit_code == 0:
        envs.say_done(config.env)
    return result.exit_code


def run_argument(command: str, arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Returns the directory of the run named first, and the other arguments.

    Raises:
        UsageError: no run was named, or there is none of that name.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UsageError(f"expected `torchbeast {command} RUN`: an xpid, a path, or latest")
    rest = list(arguments[1:])
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--savedir", default=RunConfig().output.savedir)
    try:
        return find_run(parser.parse_known_args(rest)[0].savedir, arguments[0]), rest
    except ValueError as error:
        raise UsageError(str(error)) from error


def config_of(path: Path) -> RunConfig:
    """Returns the config that a run was last started with.

    Raises:
        UsageError: the run has none that can be read.
    """
    try:
        return load_config(path / "config.yaml")
    except ValueError as error:
        raise UsageError(f"{path}: its settings cannot be read: {error}", 7) from error


def _refuse_unused_address(config: RunConfig) -> None:
    address = config.cluster.address
    if address is not None and config.cluster.runner != "cluster":
        raise UsageError(
            f"expected --runner cluster with --address {address}, got --runner machine, which "
            f"trains on this machine; add --runner cluster, or leave --address out"
        )


def _prepare_directory(config: RunConfig) -> None:
    """Sets a run of this name aside, or refuses it, unless it can be continued."""
    output = config.output
    if output.xpid is None:
        return
    path = expand(output.savedir) / output.xpid
    if not checkpoint.has_checkpoint(path):
        return
    if output.restart == "fail":
        raise UsageError(f"expected a new run, got {path}, which has checkpoints; change --xpid")
    if output.restart == "fresh":
        os.close(run_directory.lock_file(path / "run.lock"))  # RunLocked while a run goes on there
        number = 1
        while (aside := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        path.rename(aside)
        print(f"{path} was set aside as {aside.name}", file=sys.stderr)
        return
    _refuse_other_shapes(path, config)


def _refuse_other_shapes(path: Path, config: RunConfig) -> None:
    """Raises UsageError if the run was of another algorithm, environment or network."""
    if not (path / "config.yaml").is_file():
        return
    saved = config_of(path)
    if saved.algo != config.algo:
        raise UsageError(
            f"expected the algorithm {saved.algo} as in the run {path.name}, got {config.algo}; "
            f"choose another --xpid, or --restart fresh"
        )
    before, now = to_dict(saved), to_dict(config)
    for group in ("env", "network"):
        for name, value in now[group].items():
            old = before[group].get(name)
            if old != value and name not in NOT_SHAPES:
                raise UsageError(
                    f"expected --{name} {old} as in the run {path.name}, got {value}; "
                    f"choose another --xpid, or --restart fresh"
                )


def _closing_words(config: RunConfig, result: Result, again: str) -> str:
    path, name = result.path, result.path.name
    lines = [f"{result.steps:,} steps, mean return of the last 100 games {result.mean_return:.1f}"]
    if result.games:
        lines.append(f"evaluation: {describe(result.games)}")
    lines.append(f"results in {path}")
    if expand(config.output.savedir) != expand(RunConfig().output.savedir):
        name = str(path)
    if result.exit_code:
        lines.append(f"stopped and saved; continue with: {again.format(run=name, xpid=path.name)}")
    elif not config.output.disable_checkpoint:
        lines.append(
            f"next: torchbeast eval {name} | torchbeast play {name} | torchbeast plot {name}"
        )
    return "\n".join(lines)


def describe(games: Sequence[Episode]) -> str:
    """Returns how evaluated games went, in words."""
    returns = [game.episode_return for game in games]
    mean = sum(returns) / len(returns)
    return (
        f"mean return {mean:.1f} over {len(returns)} games "
        f"(from {min(returns):.1f} to {max(returns):.1f})"
    )

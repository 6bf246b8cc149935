"""Flags to config: defaults, then preset, then config files, then flags."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from torchbeast import presets
from torchbeast.commands.errors import UsageError, nearest
from torchbeast.envs.registry import parse_arguments
from torchbeast.runners.config import RunConfig, default_config, load_config, save_config

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where settings come from before the flags."""

    preset: str = "auto"
    """A preset by name; auto: the one that fits the environment; none: the plain defaults."""
    config: tuple[str, ...] = ()
    """YAML files with settings; later ones win, flags win over all."""
    save_config: str | None = None
    """Write the settings to this YAML file and stop."""


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """All flags of `torchbeast train`."""

    run: RunConfig
    sources: Sources = dataclasses.field(default_factory=Sources)


def train_config(algorithm: str, program: str, arguments: Sequence[str]) -> RunConfig | None:
    """Returns the config that the flags mean; None if they only asked to save it.

    Raises:
        UsageError: the algorithm, a preset or a config file is unknown or wrong.
    """
    try:
        defaults = default_config(algorithm)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _refuse_same_names(defaults)
    sources, env = _first_look(arguments)
    base = _base(defaults, sources, **env)
    flags = parse(TrainFlags(base, sources), program, arguments)
    if flags.sources.save_config is not None:
        save_config(flags.run, pathlib.Path(flags.sources.save_config))
        print(f"saved the settings to {flags.sources.save_config}")
        return None
    return flags.run


def parse(default: T, program: str, arguments: Sequence[str]) -> T:
    """Returns ``default``, a nested dataclass, with what the flags say.

    An unknown flag ends the process with exit code 2 and the nearest flags.
    """
    return tyro.cli(
        type(default),
        prog=program,
        args=list(arguments),
        default=default,
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def _refuse_same_names(config: RunConfig) -> None:
    """Raises UsageError if a setting of the algorithm would be the flag of another setting."""
    own = {field.name for field in dataclasses.fields(config.algorithm)}
    groups: list[Any] = [config.env, config.network, config.system, config.cluster]
    groups += [config.output, Sources()]
    taken = {field.name for group in groups for field in dataclasses.fields(group)}
    if own & taken:
        raise UsageError(
            f"expected settings of {config.algo} with names of their own, got "
            f"{', '.join(sorted(own & taken))}, which other settings have; rename them"
        )


def _first_look(arguments: Sequence[str]) -> tuple[Sources, dict[str, Any]]:
    """Returns what decides the defaults of the other flags: sources, and given settings of env."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--config", nargs="*", default=[])
    parser.add_argument("--env", default=argparse.SUPPRESS)
    parser.add_argument("--env_kwargs", nargs="*", default=argparse.SUPPRESS)
    known, _ = parser.parse_known_args(list(arguments))
    env = {name: value for name, value in vars(known).items() if name.startswith("env")}
    if "env_kwargs" in env:
        try:
            env["env_kwargs"] = parse_arguments(env["env_kwargs"])
        except ValueError as error:
            raise UsageError(f"--env_kwargs: {error}") from error
    return Sources(known.preset, tuple(known.config)), env


def _base(base: RunConfig, sources: Sources, **env: Any) -> RunConfig:
    from_files = base
    try:
        for path in sources.config:
            from_files = load_config(pathlib.Path(path), from_files)
    except ValueError as error:
        raise UsageError(str(error)) from error
    base = dataclasses.replace(base, env=dataclasses.replace(from_files.env, **env))
    name = base.env.env
    known = presets.of(base.algo)
    if sources.preset in ("auto", "none"):
        preset = presets.for_env(base.algo, name) if sources.preset == "auto" else None
    elif sources.preset in known:
        preset = known[sources.preset]
    else:
        raise UsageError(
            f"expected --preset {', '.join(['auto', 'none', *known])} for {base.algo}, got "
            f"'{sources.preset}'; nearest: {nearest(sources.preset, ['none', *known])}"
        )
    base = preset(base) if preset else base
    for path in sources.config:
        base = load_config(pathlib.Path(path), base)
    return base

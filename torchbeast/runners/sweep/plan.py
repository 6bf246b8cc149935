"""The runs that a sweep consists of, and whether they fit those that are there already."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torchbeast.runners.checks import ConfigError, checked
from torchbeast.runners.config import RunConfig, load_config, to_dict
from torchbeast.runners.sweep.place import Job
from torchbeast.runners.sweep.variants import Variant

NOT_VARIED = ("seed", "xpid", "savedir", "restart", "save_config")
_ANYWHERE = ("savedir",)  # a sweep may be moved


def plan(variants: Sequence[tuple[Variant, RunConfig]], seeds: int, folder: Path) -> list[Job]:
    """Returns a job for each variant and seed, its run in ``folder``; nothing is written.

    Raises:
        ConfigError: the settings of a variant do not fit together, or ``folder`` holds runs of
            another sweep.
    """
    if seeds < 1:
        raise ConfigError(f"expected --seeds of at least 1, got {seeds}")
    jobs = [
        job
        for variant, config in variants
        for job in _with_seeds(variant, _checked(variant, config), seeds, folder)
    ]
    _refuse_another_sweep(folder, jobs)
    return jobs


def _checked(variant: Variant, config: RunConfig) -> RunConfig:
    try:
        return checked(config)
    except ConfigError as error:
        raise ConfigError(f"{variant.name}: {error}") from error


def _with_seeds(variant: Variant, config: RunConfig, seeds: int, folder: Path) -> list[Job]:
    jobs = []
    for seed in range(config.system.seed, config.system.seed + seeds):
        path = folder / f"{variant.name}-seed{seed}"
        output = dataclasses.replace(config.output, savedir=str(folder), xpid=path.name)
        system = dataclasses.replace(config.system, seed=seed)
        seeded = dataclasses.replace(config, system=system, output=output)
        jobs.append(Job(variant.name, variant.settings, seed, seeded, path))
    return jobs


def _refuse_another_sweep(folder: Path, jobs: Sequence[Job]) -> None:
    if (folder / "meta.json").is_file():
        raise ConfigError(f"expected --xpid to name a sweep, got {folder}, which is a run")
    known = {job.path for job in jobs}
    found = (path.parent for path in folder.glob("*/config.yaml"))
    there = sorted(path for path in found if not path.is_symlink())  # `latest` is one
    for path in there:
        if path not in known:
            raise ConfigError(
                f"expected the runs of this sweep in {folder}, got also {path.name}; a sweep may "
                f"grow by values and seeds, not lose them: name them all, or choose another --xpid"
            )
    for job in jobs:
        if job.path in there:
            _refuse_other_settings(job)


def _refuse_other_settings(job: Job) -> None:
    try:
        before = to_dict(load_config(job.path / "config.yaml"))
    except ValueError as error:
        raise ConfigError(f"{error}; take {job.path} away, or choose another --xpid") from error
    now = to_dict(job.config)
    for group, settings in now.items():
        if not isinstance(settings, dict):
            settings, old = {group: settings}, {group: before[group]}
        else:
            old = before[group]
        for name, value in settings.items():
            if name not in _ANYWHERE and old.get(name) != value:
                raise ConfigError(
                    f"expected --{name} {old.get(name)} as in the run {job.path}, got {value}; "
                    f"choose another --xpid for a sweep with other settings"
                )

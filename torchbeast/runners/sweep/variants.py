"""The variants of a sweep: which settings differ between its runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from torchbeast.runners.checks import ConfigError


class Variant(NamedTuple):
    """Settings that belong together, as their flags take them."""

    name: str  # part of the name of a directory
    settings: Mapping[str, str]


def axis(text: str) -> list[Variant]:
    """Returns a variant for each value of ``NAME=V1,V2,...``.

    Raises:
        ConfigError: ``text`` is not of that form, or says a value twice.
    """
    name, equals, values = text.partition("=")
    name = name.strip().removeprefix("--")
    each = [value.strip() for value in values.split(",")]
    if not name or not equals or not all(each):
        raise ConfigError(f"expected --vary NAME=V1,V2,..., got {text!r}")
    return _distinct(
        [Variant(_file_name(f"{name}={v}"), {name: v}) for v in each], f"--vary {text}"
    )


def read_variants(path: Path) -> list[Variant]:
    """Returns the variants of a YAML file: their names, and the settings of each.

    Raises:
        ConfigError: the file cannot be read, or says something else.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--variants {path}: cannot be read: {error}") from None
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"--variants {path}: expected names of variants with settings under each")
    found = []
    for name, settings in data.items():
        if not isinstance(settings, dict):
            raise ConfigError(
                f"--variants {path}: expected settings under '{name}', got {settings!r}"
            )
        texts = {str(key): _as_flag(value) for key, value in settings.items()}
        found.append(Variant(_file_name(str(name)), texts))
    return _distinct(found, f"--variants {path}")


def grid(axes: Sequence[Sequence[Variant]], alone: str) -> list[Variant]:
    """Returns every combination of one variant of each axis; without axes, one named ``alone``.

    Raises:
        ConfigError: two axes set the same.
    """
    names = [set().union(*(variant.settings for variant in each)) for each in axes]
    for one, other in itertools.combinations(names, 2):
        if one & other:
            raise ConfigError(
                f"expected each setting to be varied once, got {', '.join(sorted(one & other))} "
                f"twice; name all its values in one --vary"
            )
    combinations = [
        Variant(
            ",".join(variant.name for variant in chosen),
            {name: text for variant in chosen for name, text in variant.settings.items()},
        )
        for chosen in itertools.product(*axes)
    ]
    return combinations if axes else [Variant(_file_name(alone), {})]


def _as_flag(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _file_name(text: str) -> str:
    """Returns ``text`` as a name that every file system and shell takes as it is."""
    return re.sub(r"[^\w.=,+-]+", "_", text).strip("_")


def _distinct(variants: list[Variant], where: str) -> list[Variant]:
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not all(names):
        raise ConfigError(f"{where}: expected names that differ, got {', '.join(twice)} twice")
    return variants

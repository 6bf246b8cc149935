"""Code of the user's own: finds what ``module:name`` or ``path/to/file.py:name`` refers to."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pathlib
import sys
import tempfile
import traceback
import zlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

FILE_PREFIX = "torchbeast_file_"  # of the names under which files are known
CARRIED = "TORCHBEAST_CARRIED"  # names the folder with files of another machine

_folders: list[tempfile.TemporaryDirectory[str]] = []


def is_reference(name: str) -> bool:
    """Returns whether ``name`` refers to code: it has a colon."""
    return ":" in name


def load(name: str) -> Any:
    """Returns the object that ``module:name`` or ``path/to/file.py:name`` refers to.

    Raises:
        ValueError: there is no such file, module or name in it.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ValueError(f"expected module:name or path/to/file.py:name, got {name!r}")
    try:
        module = _module_of_file(pathlib.Path(where)) if where.endswith(".py") else _module(where)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{where} cannot be imported\n{traceback.format_exc()}") from error
    if not hasattr(module, attribute):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise ValueError(f"expected {attribute!r} in {where}, which has {', '.join(public)}")
    return getattr(module, attribute)


def absolute(name: str) -> str:
    """Returns ``name`` with the full path of its file, good in any folder; others as they are."""
    where, _, attribute = name.rpartition(":")
    path = pathlib.Path(where)
    return f"{path.resolve()}:{attribute}" if where.endswith(".py") and path.is_file() else name


def same(name: str, other: str) -> bool:
    """Returns whether two names mean the same; a file may lie elsewhere on another machine."""
    return _without_folder(name) == _without_folder(other)


def _without_folder(name: str) -> str:
    where, _, attribute = name.rpartition(":")
    return f"{pathlib.PurePath(where).name}:{attribute}" if where.endswith(".py") else name


def carry_out(names: Iterable[str]) -> dict[str, str]:
    """Returns the texts, by path, of the files that references among ``names`` lie in.

    Another machine that does not have the files takes them with ``carry_in``.
    """
    paths = (pathlib.Path(absolute(name).rpartition(":")[0]) for name in names)
    return {str(path): path.read_text() for path in paths if path.suffix == ".py"}


def carry_in(files: dict[str, str]) -> None:
    """Lets this process, and those that it starts, find files of another machine by their paths."""
    if not files:
        return
    folder = tempfile.TemporaryDirectory(prefix="torchbeast-")
    _folders.append(folder)  # gone with this process
    for path, text in files.items():
        file = _carried(folder.name, path)
        file.parent.mkdir()
        file.write_text(text)
    os.environ[CARRIED] = folder.name


def _carried(folder: str, path: str | pathlib.Path) -> pathlib.Path:
    return pathlib.Path(folder, f"{zlib.crc32(str(path).encode()):x}", pathlib.Path(path).name)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"expected a module, got {name!r}: {error}; is it on the path, or was a file "
            f"{name}.py meant?"
        ) from error


def _module_of_file(path: pathlib.Path) -> ModuleType:
    carried = _carried(os.environ.get(CARRIED, ""), path)
    path = carried if CARRIED in os.environ and carried.is_file() else path
    if not path.is_file():
        raise ValueError(f"expected a Python file, got {str(path)!r}, which does not exist")
    # Known under a name of its own: dataclasses and pickles look their module up. Loaded once.
    path = path.resolve()
    name = FILE_PREFIX + path.stem
    known = sys.modules.get(name)
    if known is not None and known.__file__ != str(path):
        name = f"{name}_{zlib.crc32(str(path).encode()):x}"
        known = sys.modules.get(name)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

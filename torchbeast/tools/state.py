"""State as plain data, which every reader accepts and which cannot run code; random generators."""

from __future__ import annotations

import argparse
import dataclasses
import random
from collections import deque
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


def plain(tree: Any, arrays_to_lists: bool = False, where: str = "state") -> Any:
    """Returns ``tree`` as dicts, lists, tuples, numbers, strings and tensors only.

    ``torch.load(weights_only=True)`` refuses NumPy numbers, deques, paths and the like, so they
    are converted when they are saved. NumPy arrays become tensors; with ``arrays_to_lists`` they
    and tensors become lists, and keys must be strings, as JSON needs it.

    Raises:
        TypeError: something in ``tree`` is not data.
    """
    if isinstance(tree, Enum):  # before int and str: members may be both
        return plain(tree.value, arrays_to_lists, where)
    if isinstance(tree, np.generic):  # before float: np.float64 is one
        return plain(tree.item(), arrays_to_lists, where)
    if tree is None or isinstance(tree, bool | int | float | str):
        return _builtin(tree)
    if isinstance(tree, torch.Tensor | np.ndarray | bytes):
        return _plain_array(tree, arrays_to_lists, where)
    if isinstance(tree, PurePath | torch.device | torch.dtype):
        return str(tree)
    fields = _fields(tree)
    if fields is not None:
        return {
            _plain_key(key, arrays_to_lists, where): plain(
                value, arrays_to_lists, f"{where}[{key!r}]"
            )
            for key, value in fields.items()
        }
    if isinstance(tree, list | tuple | deque | set | frozenset):
        items = [plain(x, arrays_to_lists, f"{where}[{i}]") for i, x in enumerate(tree)]
        return tuple(items) if isinstance(tree, tuple) and not arrays_to_lists else items
    raise TypeError(
        f"expected plain data in {where} (numbers, strings, tensors, lists, dicts), got "
        f"{type(tree).__module__}.{type(tree).__qualname__}; save its numbers instead"
    )


def capture_rng() -> dict[str, Any]:
    """Returns the state of Python's, NumPy's (legacy) and torch's generators as plain data."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": [keys.tolist(), int(position), int(has_gauss), float(gauss)],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Puts the generators back into the state of ``capture_rng``.

    The generators of GPUs are left alone on a machine with fewer GPUs.
    """
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        for i, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(generator.cpu(), i)


def _builtin(x: Any) -> Any:
    """Returns ``x`` without a subclass: pickle names the class of a subclass."""
    for kind in (bool, int, float, str):
        if isinstance(x, kind):
            return kind(x)
    return x


def _plain_array(x: Any, to_lists: bool, where: str) -> Any:
    if isinstance(x, bytes):
        if to_lists:
            raise TypeError(f"expected text in {where}, got bytes; JSON holds none")
        return x
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "biufc":
            return plain(x.tolist(), to_lists, where)
        x = torch.from_numpy(np.array(x))  # a copy: not read-only, no negative strides
    return x.tolist() if to_lists else x.detach()


def _fields(x: Any) -> Mapping[Any, Any] | None:
    if isinstance(x, Mapping):
        return x
    if isinstance(x, argparse.Namespace | SimpleNamespace):
        return vars(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
    return None


def _plain_key(key: Any, only_strings: bool, where: str) -> Any:
    key = plain(key, True, where)
    if only_strings and not isinstance(key, str):
        raise TypeError(
            f"expected keys that are strings in {where}, got {key!r}; JSON has no other"
        )
    return key

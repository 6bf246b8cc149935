"""Python values as plain data and back: what ``torch.load(weights_only=True)`` reads.

The plain data holds only None, bool, int, float, str, list, dict with string keys, and tensors.
"""

from __future__ import annotations

import abc
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

TAG = "#"  # the key that tells an encoded value from a plain one
HEAP_TYPE = 1 << 9  # CPython's Py_TPFLAGS_HEAPTYPE: a class written in Python
CONTAINERS: dict[type, str] = {list: "list", tuple: "tuple", set: "set", deque: "deque"}


class NotPlain(Exception):
    """Something in an environment cannot be said as plain data."""


class Encoder:
    """Turns values into plain data; an object met twice is said once and then referred to.

    ``layers`` are an environment and its wrappers: they are referred to, never said.
    """

    def __init__(self, layers: list[Any]) -> None:
        self._layers = layers
        self._packages = packages_of(layers)
        self._seen: dict[int, int] = {}
        self._memory: set[int] = set()  # whose bytes the arrays so far show
        self._alive: list[Any] = []  # an id is an id only while its object lives

    def encode(self, value: Any) -> Any:
        """Returns ``value`` as plain data; raises NotPlain if it is something else."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        for i, layer in enumerate(self._layers):
            if value is layer:
                return {TAG: "layer", "index": i}
        if id(value) in self._seen:
            return {TAG: "again", "index": self._seen[id(value)]}
        if type(value) is not tuple:  # nothing can change a tuple: equal is as good as same
            self._seen[id(value)] = len(self._seen)
            self._alive.append(value)
        if isinstance(value, np.ndarray | np.generic):
            self._check_memory(value)
            return _encode_array(value)
        if type(value) in CONTAINERS:
            # A set is said in its order of iteration; strings may come in another one later.
            if isinstance(value, set) and not all(type(x) in (int, bool) for x in value):
                raise NotPlain(value)
            items = [self.encode(item) for item in value]
            return {TAG: CONTAINERS[type(value)], "items": items, "max": _max_length(value)}
        if type(value) is dict:
            return {TAG: "dict", "items": self._pairs(value)}
        if isinstance(value, np.random.Generator):
            return {TAG: "generator", "state": self._pairs(value.bit_generator.state)}
        if isinstance(value, np.random.RandomState):
            return {TAG: "random_state", "state": self._pairs(value.get_state(legacy=False))}
        return self._encode_object(value)

    def _check_memory(self, value: Any) -> None:
        # Two arrays over the same bytes would come back as two that know nothing of each other.
        if isinstance(value, np.ndarray):
            while isinstance(value.base, np.ndarray):
                value = value.base
            if id(value) in self._memory:
                raise NotPlain(value)
            self._memory.add(id(value))

    def _pairs(self, value: Any) -> list[list[Any]]:
        return [[self.encode(key), self.encode(item)] for key, item in value.items()]

    def _encode_object(self, value: Any) -> dict[str, Any]:
        cls = type(value)
        if isinstance(value, gymnasium.Env) or not written_in_python(cls):
            raise NotPlain(value)
        name = class_name(cls)
        if _find_class(name, self._packages) is not cls:
            raise NotPlain(value)
        return {TAG: "object", "class": name, "state": self._pairs(vars(value))}


class Decoder:
    """Turns what an encoder said back into values, the same objects where they were the same."""

    def __init__(self, layers: list[Any]) -> None:
        self._layers = layers
        self._packages = packages_of(layers)
        self._made: list[Any] = []

    def decode(self, value: Any) -> Any:
        """Returns the value that was encoded."""
        if not isinstance(value, dict):
            return value
        kind = value[TAG]
        if kind == "layer":
            return self._layers[value["index"]]
        if kind == "again":
            return self._made[value["index"]]
        if kind == "tuple":
            return tuple(self.decode(item) for item in value["items"])
        if kind in ("array", "scalar"):
            return self._keep(_decode_array(value))
        if kind in ("generator", "random_state"):
            return self._decode_generator(value)
        if kind == "dict":
            result: Any = self._keep({})
            result.update(self._pairs(value["items"]))
        elif kind == "object":
            result = self._decode_object(value)
        else:
            result = self._keep(_empty(kind, value["max"]))
            add = result.add if kind == "set" else result.append
            for item in value["items"]:
                add(self.decode(item))
        return result

    def _keep(self, made: Any) -> Any:
        self._made.append(made)
        return made

    def _pairs(self, pairs: list[list[Any]]) -> Iterator[tuple[Any, Any]]:
        return ((self.decode(key), self.decode(item)) for key, item in pairs)

    def _decode_generator(self, value: dict[str, Any]) -> Any:
        place = len(self._made)
        self._made.append(None)
        state = dict(self._pairs(value["state"]))
        bits = getattr(np.random, state["bit_generator"])
        if not (isinstance(bits, type) and issubclass(bits, np.random.BitGenerator)):
            raise ValueError(f"expected a bit generator of NumPy, got {state['bit_generator']!r}")
        made: Any
        if value[TAG] == "generator":
            made = np.random.Generator(bits())
            made.bit_generator.state = state
        else:
            made = np.random.RandomState(bits())
            made.set_state(state)
        self._made[place] = made
        return made

    def _decode_object(self, value: dict[str, Any]) -> Any:
        cls = _find_class(value["class"], self._packages)
        if cls is None:
            raise ValueError(f"expected a class of {self._packages}, got {value['class']!r}")
        made = self._keep(object.__new__(cls))  # its __init__ does not run
        vars(made).update(self._pairs(value["state"]))
        return made


def _encode_array(value: Any) -> dict[str, Any]:
    import torch  # here: a worker process steps environments without it

    array = np.ascontiguousarray(value)
    if array.dtype.hasobject or array.dtype.fields is not None:
        raise NotPlain(value)
    data = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8) if array.nbytes else None
    kind = "array" if isinstance(value, np.ndarray) else "scalar"
    return {TAG: kind, "dtype": array.dtype.str, "shape": list(np.shape(value)), "data": data}


def _decode_array(value: dict[str, Any]) -> Any:
    data = b"" if value["data"] is None else value["data"].numpy().tobytes()
    array = np.frombuffer(data, value["dtype"]).reshape(value["shape"]).copy()
    return array[()] if value[TAG] == "scalar" else array


def _empty(kind: str, max_length: int | None) -> Any:
    if kind == "deque":
        return deque(maxlen=max_length)
    return {"list": list, "set": set}[kind]()


def _max_length(value: Any) -> int | None:
    return value.maxlen if isinstance(value, deque) else None


def packages_of(layers: list[Any]) -> set[str]:
    """Returns the top-level packages that the classes of ``layers`` come from."""
    classes = {cls for layer in layers for cls in type(layer).__mro__}
    return {cls.__module__.split(".")[0] for cls in classes} - {"builtins"}


def class_name(cls: type) -> str:
    """Returns ``module:Class``."""
    return f"{cls.__module__}:{cls.__qualname__}"


def _find_class(name: str, packages: set[str]) -> type | None:
    """Returns a class of these packages that is already imported; a snapshot imports nothing."""
    module_name, _, qualified = name.partition(":")
    if module_name.split(".")[0] not in packages:
        return None
    found: Any = sys.modules.get(module_name)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and written_in_python(found) else None


def written_in_python(cls: type) -> bool:
    """Returns whether all state of an object of ``cls`` is in its ``__dict__``."""
    # Classes of extension modules have metaclasses of their own, or room for C beside the dict.
    return (
        type(cls) in (type, abc.ABCMeta)
        and cls.__basicsize__ == _Empty.__basicsize__
        and cls.__dictoffset__ != 0
        and all(
            c is object or (c.__flags__ & HEAP_TYPE and not c.__dict__.get("__slots__"))
            for c in cls.__mro__
        )
    )


class _Empty:
    """How large an object of a class written in Python is."""

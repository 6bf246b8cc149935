"""The state of Python environments as plain data: exact, or not at all; no pickled code.

An environment may say its own state: ``get_state()`` returns plain data and ``set_state(data)``
takes it (``np_random`` is kept for it). Otherwise the attributes of the environment and of each
of its wrappers are read.
They are plain if they are numbers, strings, arrays, random generators, lists, tuples, dicts,
sets and deques of these, or objects of the environment's own package made of these. Where an
attribute is anything else (a physics engine, an emulator, a file) there is no snapshot.
State outside attributes, such as the global generator of ``numpy.random``, is not seen.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as Registered

from torchbeast.envs.plain import TAG, Decoder, Encoder, NotPlain, class_name, written_in_python

# What drawing and making an environment leaves behind: no step depends on it.
DRAWING = {"screen", "clock", "surf", "window", "viewer", "renderer"}


def capture(envs: Sequence[Any]) -> dict[str, Any] | None:
    """Returns the state of the environments, or None if one of them cannot say it.

    The result is plain data: ``torch.load(weights_only=True)`` reads it back.
    """
    try:
        return {"envs": [_capture_env(env) for env in envs]}
    except NotPlain:
        return None


def restore(envs: Sequence[Any], state: dict[str, Any]) -> None:
    """Puts environments made in the same way into a captured state.

    Raises:
        ValueError: these are other environments than the captured ones.
    """
    expected = [[class_name(type(layer)) for layer in _layers(env)] for env in envs]
    came = [[layer["class"] for layer in layers] for layers in state["envs"]]
    if expected != came:
        raise ValueError(f"expected a snapshot of {expected[0]}, got one of {came[0]}")
    for env, layers in zip(envs, state["envs"], strict=True):
        _restore_env(env, layers)


def _capture_env(env: Any) -> list[dict[str, Any]]:
    layers = list(_layers(env))
    encoder = Encoder(layers)
    result = []
    for layer in layers:
        if _speaks(layer):
            random = vars(layer).get("_np_random")
            said = {"custom": encoder.encode((layer.get_state(), random))}
        else:
            said = {"attributes": _capture_attributes(layer, encoder)}
        result.append({"class": class_name(type(layer)), **said})
    return result


def _capture_attributes(layer: Any, encoder: Encoder) -> dict[str, Any]:
    if not written_in_python(type(layer)):
        raise NotPlain(type(layer))
    attributes = {}
    for name, value in vars(layer).items():
        if isinstance(value, spaces.Space):
            attributes[name] = {TAG: "space", "generators": encoder.encode(_generators(value))}
        elif not (_is_drawing(name, value) or _is_harmless(value)):
            attributes[name] = encoder.encode(value)
    return attributes


def _restore_env(env: Any, saved: list[dict[str, Any]]) -> None:
    layers = list(_layers(env))
    decoder = Decoder(layers)
    for layer, state in zip(layers, saved, strict=True):
        if "custom" in state:
            custom, layer._np_random = decoder.decode(state["custom"])
            layer.set_state(custom)
            continue
        for name, value in state["attributes"].items():
            if isinstance(value, dict) and value.get(TAG) == "space":
                _set_generators(vars(layer)[name], iter(decoder.decode(value["generators"])))
            else:
                vars(layer)[name] = decoder.decode(value)


def _layers(env: Any) -> Iterator[Any]:
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def _speaks(layer: Any) -> bool:
    # Asked of the class: a wrapper would answer for the environment inside.
    return hasattr(type(layer), "get_state") and hasattr(type(layer), "set_state")


def _is_drawing(name: str, value: Any) -> bool:
    # A number called "clock" is state; an object of pygame called so is not.
    module = type(value).__module__.split(".")[0]
    return name == "_saved_kwargs" or (name in DRAWING and module not in ("builtins", "numpy"))


def _is_harmless(value: Any) -> bool:
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return all(isinstance(x, int | float | str | type | None) or _is_harmless(x) for x in cells)
    kinds = (type, types.BuiltinFunctionType, types.ModuleType, Registered)
    return isinstance(value, kinds)


def _generators(space: spaces.Space[Any]) -> list[np.random.Generator | None]:
    own: list[np.random.Generator | None] = [space._np_random]
    for sub in _subspaces(space):
        own += _generators(sub)
    return own


def _set_generators(
    space: spaces.Space[Any], generators: Iterator[np.random.Generator | None]
) -> None:
    space._np_random = next(generators)  # type: ignore[assignment]
    for sub in _subspaces(space):
        _set_generators(sub, generators)


def _subspaces(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, spaces.Tuple) else []

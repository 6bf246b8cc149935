"""Which environments there are, and how one of them is made."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
import zlib
from collections.abc import Callable
from typing import Annotated, Any, Literal

import gymnasium
import tyro
from gymnasium.envs.registration import EnvSpec as Registered

from torchbeast.envs import atari

# How a name or an entry point shows which package it needs, and what installs it.
PACKAGES = [
    (r"^ALE/|NoFrameskip-v\d+$", "ale_py", "torchbeast[atari]"),
    (r"^(MiniGrid|BabyAI)-", "minigrid", "torchbeast[minigrid]"),
    (r"box2d", "Box2D", "gymnasium[box2d]"),
    (r"mujoco", "mujoco", "gymnasium[mujoco]"),
]


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """Which environments, and what steps them."""

    env: str = "PongNoFrameskip-v4"
    """An id of Gymnasium, `module:function` or `path/to/file.py:function`."""
    env_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the environment, of the function, or of ale-py's AtariVectorEnv."""
    env_workers: int = 0
    """Processes that step Python environments; 0 steps them in this process."""
    env_threads: int = 0
    """Threads that step native environments; 0 takes one per core."""
    life_loss: bool = False
    """A lost life ends the training episode (Atari); returns stay those of full games."""
    env_backend: Literal["auto", "gymnasium", "envpool"] = "auto"
    """What steps them: the fastest installed, plain Gymnasium, or envpool."""
    factory: Annotated[Callable[..., gymnasium.Env[Any, Any]] | None, tyro.conf.Suppress] = None
    """A function that makes one environment, from Python; in place of `env`."""

    @property
    def name(self) -> str:
        """Returns what messages and results call the environment."""
        if self.factory is None:
            return self.env
        return str(getattr(self.factory, "__qualname__", self.factory))


class UnknownEnvironment(ValueError):
    """No environment has this name, or the package that brings it is not installed."""


def single_env(config: EnvConfig, render: bool = False) -> gymnasium.Env[Any, Any]:
    """Returns one environment of Gymnasium, as its author made it.

    Raises:
        UnknownEnvironment: nothing has the name ``config.env``.
    """
    kwargs = dict(config.env_kwargs)
    function = config.factory or _function(config.env)
    if function is not None:
        if render and _takes(function, "render_mode"):
            kwargs["render_mode"] = "rgb_array"
        env = function(**kwargs)
        if not isinstance(env, gymnasium.Env):
            raise ValueError(f"expected {config.name} to return a gymnasium.Env, got {type(env)}")
        return env
    registered = find(config.env)
    if render:
        kwargs["render_mode"] = "rgb_array"
    try:
        # The checker warns about what array_specs and the contract refuse or allow themselves.
        return gymnasium.make(registered, disable_env_checker=True, **kwargs)
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        hint = _install_hint(str(registered.entry_point))
        raise UnknownEnvironment(f"{config.env} needs a package: {error}{hint}") from error


def find(name: str) -> Registered:
    """Returns the entry of Gymnasium's registry.

    Raises:
        UnknownEnvironment: there is none; the message names the nearest three.
    """
    _register()
    try:
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError) as error:
        nearest = difflib.get_close_matches(name, names(), 3, cutoff=0)
        raise UnknownEnvironment(
            f"expected the name of an environment, got {name!r}; the nearest are "
            f"{', '.join(nearest)}{_install_hint(name)}"
        ) from error


def names() -> list[str]:
    """Returns the ids that ``make`` takes, sorted."""
    return sorted(name for group in groups().values() for name in group)


def groups() -> dict[str, list[str]]:
    """Returns the ids that ``make`` takes by where they come from, for a listing."""
    _register()
    result: dict[str, list[str]] = {}
    for registered in gymnasium.registry.values():
        group = _group(registered)
        if group is not None:
            result.setdefault(group, []).append(registered.id)
    return {group: sorted(ids) for group, ids in sorted(result.items())}


def is_atari(config: EnvConfig) -> bool:
    """Returns whether ale-py's own vector can step these environments."""
    if config.factory is not None or _function(config.env) is not None:
        return False
    return find(config.env).entry_point == atari.ENTRY_POINT


def _group(registered: Registered) -> str | None:
    entry = registered.entry_point
    if not isinstance(entry, str):
        return None  # Gymnasium's notes that an old id is gone
    if entry == atari.ENTRY_POINT:
        kwargs = registered.kwargs
        fixed_skip = isinstance(kwargs["frameskip"], int)
        return "atari" if fixed_skip and kwargs.get("obs_type", "rgb") == "rgb" else None
    if ".phys2d." in entry or ".tabular." in entry:
        return None  # these need JAX
    if entry.startswith("gymnasium.envs."):
        return entry.split(".")[2]
    return entry.split(".")[0].split(":")[0]


def _register() -> None:
    """Makes the ids of installed packages known to Gymnasium."""
    from torchbeast.envs import tmaze

    tmaze.register()
    for package in ("ale_py", "minigrid"):
        if importlib.util.find_spec(package) is not None:
            gymnasium.register_envs(importlib.import_module(package))


def _install_hint(text: str) -> str:
    for pattern, package, extra in PACKAGES:
        if re.search(pattern, text) and importlib.util.find_spec(package) is None:
            return f'; {package} is not installed: pip install "{extra}"'
    return ""


def _function(name: str) -> Callable[..., Any] | None:
    """Returns the function that ``module:function`` or ``file.py:function`` names, else None."""
    module_name, colon, attribute = name.rpartition(":")
    if not colon:
        return None
    if module_name.endswith(".py"):
        module = _module_of_file(pathlib.Path(module_name))
    else:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise UnknownEnvironment(
                f"expected module:function, got {name!r}: {error}; is the module on the path?"
            ) from error
    function = getattr(module, attribute, None)
    if function is None and name in _after_import(name, attribute):
        return None
    if not callable(function):
        raise UnknownEnvironment(
            f"expected a function {attribute!r} in {module_name}, got {function!r}"
        )
    return function


def _after_import(name: str, attribute: str) -> set[str]:
    # Gymnasium's own meaning of the colon: import the module, which registers the id.
    return {name} if attribute in gymnasium.registry else set()


def _module_of_file(path: pathlib.Path) -> Any:
    if not path.is_file():
        raise UnknownEnvironment(f"expected a Python file, got {str(path)!r}, which does not exist")
    # Known under a name of its own: dataclasses and snapshots look their module up. Loaded once.
    path = path.resolve()
    name = f"torchbeast_file_{path.stem}"
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


def _takes(function: Callable[..., Any], argument: str) -> bool:
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )

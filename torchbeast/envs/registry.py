"""Which environments there are, and how one of them is made."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import logging
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import gymnasium
import tyro
import yaml
from gymnasium.envs.registration import EnvSpec as Registered

from torchbeast import user_code
from torchbeast.envs import atari, dm_control, native
from torchbeast.envs.wrappers import InfoMask

log = logging.getLogger("torchbeast")

# How a name or an entry point shows which package it needs, and what installs it.
PACKAGES = [
    (r"^ALE/|NoFrameskip-v\d+$", "ale_py", "torchbeast[atari]"),
    (r"^(MiniGrid|BabyAI)-", "minigrid", "torchbeast[minigrid]"),
    (r"^MinAtar/", "minatar", "torchbeast[minatar]"),
    (r"^dm_control/", "dm_control", "torchbeast[dmc]"),
    (r"box2d", "Box2D", "torchbeast[box2d]"),
    (r"mujoco", "mujoco", "torchbeast[mujoco]"),
    (r"mujoco", "imageio", "torchbeast[mujoco]"),
]
MINATAR = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")


def parse_arguments(texts: list[str]) -> dict[str, Any]:
    """Returns the values, read as YAML, by the names of texts like ``size=8``."""
    pairs = [text.partition("=") for text in texts]
    wrong = [text for text, (name, equals, _) in zip(texts, pairs, strict=True) if not equals]
    if wrong or not all(name.isidentifier() for name, _, _ in pairs):
        raise ValueError(f"expected NAME=VALUE, got {' '.join(wrong or texts)}")
    return {name: yaml.safe_load(value) for name, _, value in pairs}


Arguments = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE",
        instance_from_str=parse_arguments,
        is_instance=lambda x: isinstance(x, dict),
        str_from_instance=lambda x: [f"{name}={value}" for name, value in x.items()],
    ),
]


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """Which environments, and what steps them."""

    env: str = "PongNoFrameskip-v4"
    """An id of Gymnasium, `module:function` or `path/to/file.py:function`."""
    env_kwargs: Arguments = dataclasses.field(default_factory=dict)
    """Arguments of the environment, of the function, or of ale-py's AtariVectorEnv, as
    `size=8 wind=true`."""
    env_workers: int = 0
    """Processes that step Python environments; 0 steps them in this process."""
    env_threads: int = 0
    """Threads that step native environments; 0 takes one per core."""
    life_loss: bool = False
    """A lost life ends the training episode (Atari); returns stay those of full games."""
    env_backend: Literal["auto", "gymnasium", "envpool"] = "auto"
    """What steps them: the fastest installed, plain Gymnasium, or envpool."""
    action_mask: Literal["obs", "info"] = "obs"
    """Where the mask of allowed actions is, if any: in a Dict observation, or in Gymnasium's
    `info`; under `action_mask` either way."""
    env_servers: tuple[str, ...] = ()
    """Addresses of environment servers (`torchbeast serve`), `unix:/path` or `host:port`, which
    step a share each; `env` says what they serve, for presets and titles."""
    env_token: str | None = None
    """A file with the token that the servers want."""
    env_certificate: str | None = None
    """A file (PEM) with the certificate that proves them; without it nothing is encrypted."""
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
    """Returns one environment of Gymnasium, as its author made it but for ``action_mask``.

    Raises:
        UnknownEnvironment: nothing has the name ``config.env``.
    """
    env = _made(config, render)
    return InfoMask(env) if config.action_mask == "info" else env


def _made(config: EnvConfig, render: bool) -> gymnasium.Env[Any, Any]:
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
        if ".mujoco." in str(registered.entry_point) or _is_dm_control(registered):
            _log_mujoco()
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
    registered = _registered(config)
    return registered is not None and registered.entry_point == atari.ENTRY_POINT


def native_vector(config: EnvConfig) -> Registered | None:
    """Returns the entry of the registry whose own vector can step these environments, or None."""
    asked = config.env_kwargs or config.env_workers or config.action_mask == "info"
    if asked or config.env_backend != "auto":
        return None
    registered = _registered(config)
    return registered if registered is not None and native.steps_together(registered) else None


def _registered(config: EnvConfig) -> Registered | None:
    if config.factory is not None or _function(config.env) is not None:
        return None
    return find(config.env)


def _group(registered: Registered) -> str | None:
    entry = registered.entry_point
    if not isinstance(entry, str):
        return None  # Gymnasium's notes that an old id is gone
    if entry == atari.ENTRY_POINT:
        kwargs = registered.kwargs
        fixed_skip = isinstance(kwargs["frameskip"], int)
        return "atari" if fixed_skip and kwargs.get("obs_type", "rgb") == "rgb" else None
    if any(part in entry for part in native.JAX):
        return None
    if _is_dm_control(registered):
        return "dm_control"
    if entry.startswith("gymnasium.envs."):
        return entry.split(".")[2]
    return entry.split(".")[0].split(":")[0]


def _is_dm_control(registered: Registered) -> bool:
    return registered.entry_point == dm_control.ENTRY_POINT


def _register() -> None:
    """Makes the ids of installed packages known to Gymnasium."""
    from torchbeast.envs import mock, tmaze

    mock.register()
    tmaze.register()
    for package in ("ale_py", "minigrid"):
        if importlib.util.find_spec(package) is not None:
            gymnasium.register_envs(importlib.import_module(package))
    if importlib.util.find_spec("minatar") is not None:
        _register_minatar()
    if importlib.util.find_spec("dm_control") is not None:
        dm_control.register()


def _register_minatar() -> None:
    # As minatar.gym does it, but that takes two seconds to import (it draws with seaborn).
    for game in MINATAR:
        for version in (0, 1):  # of six actions, and of those that the game has a use for
            name = f"MinAtar/{game.title().replace('_', '')}-v{version}"
            if name not in gymnasium.registry:
                kwargs = {"game": game, "use_minimal_action_set": version == 1}
                gymnasium.register(name, entry_point="minatar.gym:BaseEnv", kwargs=kwargs)


def _log_mujoco() -> None:
    """Sends MuJoCo's warnings to the log, each once; it writes a file beside the user's else."""
    import mujoco

    if mujoco.get_mju_user_warning() is None:
        say = functools.cache(lambda text: log.warning("MuJoCo: %s", text))
        mujoco.set_mju_user_warning(say)


def _install_hint(text: str) -> str:
    for pattern, package, extra in PACKAGES:
        if re.search(pattern, text) and importlib.util.find_spec(package) is None:
            return f'; {package} is not installed: pip install "{extra}"'
    return ""


def _function(name: str) -> Callable[..., Any] | None:
    """Returns the function that ``module:function`` or ``file.py:function`` names, else None."""
    if not user_code.is_reference(name):
        return None
    try:
        function = user_code.load(name)
    except ValueError as error:
        # Gymnasium's own meaning of the colon: import the module, which registers the id.
        if name.rpartition(":")[2] in gymnasium.registry:
            return None
        raise UnknownEnvironment(str(error)) from error
    if not callable(function):
        raise UnknownEnvironment(f"expected a function {name!r}, got {function!r}")
    return function


def _takes(function: Callable[..., Any], argument: str) -> bool:
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )

"""One shape for all environments: B of them, answered at once (see ``vector.py``)."""

from __future__ import annotations

from typing import Any

from torchbeast.data import EnvSpec
from torchbeast.envs import atari, registry
from torchbeast.envs.gym import GymEnv, spec_of
from torchbeast.envs.native import NativeEnv
from torchbeast.envs.registry import EnvConfig, UnknownEnvironment, groups, names
from torchbeast.envs.vector import Arrival, EnvError, Episode, Step, VectorEnv, env_seeds
from torchbeast.envs.wrappers import fixed_shape

__all__ = [
    "Arrival",
    "EnvConfig",
    "EnvError",
    "EnvSpec",
    "Episode",
    "Step",
    "UnknownEnvironment",
    "VectorEnv",
    "ask",
    "groups",
    "make",
    "names",
    "say_done",
    "spec",
]


def make(
    config: EnvConfig,
    num_envs: int,
    seed: int,
    *,
    num_threads: int | None = None,
    render: bool = False,
    step_timeout: float = 60.0,
) -> VectorEnv:
    """Returns ``num_envs`` environments, not yet reset; those of servers are of the first one.

    Args:
        config: which environments, and what steps them.
        num_envs: B.
        seed: each environment gets its own, derived from this one.
        num_threads: in place of ``config.env_threads``.
        render: make environment 0 able to ``render()``; keeps it in this process.
        step_timeout: seconds that a step of servers or of ``env_workers`` may take.

    Raises:
        UnknownEnvironment: nothing has this name, or its package is not installed.
        ValueError: the settings do not fit together, or a space has no fixed shape.
    """
    if num_envs < 1:
        raise ValueError(f"expected at least one environment, got --num_envs={num_envs}")
    if config.env_servers:
        return _remote().RemoteEnv(
            config.env_servers[0],
            num_envs,
            seed,
            config.env_token,
            tls=config.env_certificate,
            start_timeout=max(120.0, step_timeout),
            step_timeout=step_timeout,
        )
    threads = config.env_threads if num_threads is None else num_threads
    if config.env_backend == "envpool":
        from torchbeast.envs.envpool import EnvpoolEnv

        _check_mask(config)
        return EnvpoolEnv(config, num_envs, seed, threads)
    if _native_atari(config):
        _check_mask(config)
        return atari.AtariEnv(
            registry.find(config.env), num_envs, seed, threads, config.life_loss, config.env_kwargs
        )
    _check_python(config, num_envs)
    if config.env_workers and not render:
        from torchbeast.envs.processes import ProcessEnv

        return ProcessEnv(config, spec(config), num_envs, seed, step_timeout=step_timeout)
    together = registry.native_vector(config)
    if together is not None and not render:  # a native vector cannot draw only environment 0
        return NativeEnv(together, num_envs, seed)
    seeds = env_seeds(seed, num_envs)
    return GymEnv(lambda: registry.single_env(config, render), seeds, config.name)


def spec(config: EnvConfig) -> EnvSpec:
    """Returns what one environment shows and takes; makes one and closes it, or asks a server."""
    if config.env_servers:
        found: EnvSpec = ask(config, config.env_servers[0]).spec
        return found
    native = _native_atari(config) or registry.native_vector(config) is not None
    if config.env_backend == "envpool" or native:
        vector = make(config, 1, 0, num_threads=1)
        vector.close()
        return vector.spec
    env = fixed_shape(registry.single_env(config))
    result = spec_of(env)
    env.close()
    return result


def ask(config: EnvConfig, address: str) -> Any:
    """Returns what one of ``config``'s servers says of itself, a ``remote.stream.Found``.

    Raises:
        EnvError: it is not there within a minute, or refuses.
        ValueError: the address, the token or the certificate is none.
    """
    return _remote().ask(address, config.env_token, tls=config.env_certificate)


def say_done(config: EnvConfig) -> None:
    """Tells the servers of ``config``, if any, that training is over and nobody will come back."""
    if config.env_servers:
        token, certificate = config.env_token, config.env_certificate
        _remote().say_done(config.env_servers, token, tls=certificate)


def _remote() -> Any:
    try:
        from torchbeast.envs import remote
    except ModuleNotFoundError as error:
        raise UnknownEnvironment(f"--env_servers: {error}") from error
    return remote


def _native_atari(config: EnvConfig) -> bool:
    return config.env_backend == "auto" and registry.is_atari(config)


def _check_mask(config: EnvConfig) -> None:
    if config.action_mask == "info":
        raise ValueError(
            f"expected an environment written in Python for --action_mask=info, got {config.name} "
            f"stepped by C++; --env_backend=gymnasium steps it in Python"
        )


def _check_python(config: EnvConfig, num_envs: int) -> None:
    if config.life_loss:
        raise ValueError(f"expected an Atari game for --life_loss, got {config.name}")
    if config.env_workers < 0 or (config.env_workers and num_envs % config.env_workers):
        raise ValueError(
            f"expected --env_workers to divide the {num_envs} environments, got "
            f"{config.env_workers}; change --env_workers, --num_envs or --envs_per_actor"
        )

"""Environments stepped by the C++ threads of envpool."""

from __future__ import annotations

import difflib
import re
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as Registered

from torchbeast.data import EnvSpec, Tree
from torchbeast.envs import atari, registry
from torchbeast.envs.dm_control import UNLIMITED
from torchbeast.envs.registry import EnvConfig, UnknownEnvironment
from torchbeast.envs.vector import Step, VectorEnv

FRAMES_PER_STEP = 4


class EnvpoolEnv(VectorEnv):
    """B environments of envpool; Atari by the same two protocols as ``AtariEnv``.

    Names are those of ``envpool.list_all_envs()``, such as ``HalfCheetah-v5`` (as in Gymnasium),
    or an Atari game's in Gymnasium's registry; ``dm_control/cheetah-run-v0`` is ``CheetahRun-v1``.

    Seeds count in the constructor only, so a second ``reset`` goes on with the same random
    numbers. envpool's Atari differs from ale-py's in small things (its no-ops, its resize),
    and MiniGrid's text ``mission`` comes as 96 bytes.

    Args:
        config: which environments; ``env_kwargs`` override envpool's own.
        num_envs: B.
        seed: envpool derives one for each environment.
        num_threads: 0 takes one per core.
    """

    def __init__(self, config: EnvConfig, num_envs: int, seed: int, num_threads: int = 0) -> None:
        try:
            import envpool
        except ImportError as error:
            raise UnknownEnvironment(
                '--env_backend=envpool needs envpool: pip install "torchbeast[envpool]"'
            ) from error
        task, protocol = _task(config, envpool.list_all_envs())
        try:
            self._pool = envpool.make(
                task,
                env_type="gymnasium",
                num_envs=num_envs,
                num_threads=num_threads,
                seed=seed % 2**31,
                **(protocol | config.env_kwargs),
            )
        except TypeError as error:
            raise ValueError(
                f"expected --env_kwargs that envpool's {task} takes, got {config.env_kwargs}: "
                f"{error}"
            ) from error
        shown = _repaired(self._pool.observation_space)
        frames = (protocol | config.env_kwargs).get("stack_num", 1)
        if not isinstance(shown, spaces.Box) or shown.shape[0] != frames:
            frames = 1  # coloured frames lie one channel after the other
        taken = self._pool.action_space
        spec = EnvSpec(shown, _repaired(taken) if isinstance(taken, spaces.Box) else taken, frames)
        super().__init__(spec, num_envs, config.name)
        self.spec.action.seed(seed)
        self._ids = np.arange(num_envs, dtype=np.int32)
        self._life_loss = config.life_loss
        self._lives = np.zeros(num_envs, np.int64)

    def close(self) -> None:
        """Ends the environments and their threads."""
        self._pool.close()

    def _reset(self) -> Tree:
        obs, info = self._pool.reset()
        if self._life_loss:
            self._lives[:] = info["lives"]
        return obs

    def _send(self, action: Tree) -> None:
        self._pool.send(action, self._ids)

    def _recv(self) -> Step:
        obs, reward, terminated, truncated, info = self._pool.recv()
        if not np.array_equal(info["env_id"], self._ids):
            raise RuntimeError(f"expected envpool's answers in order, got {info['env_id']}")
        lost = None
        if self._life_loss:
            lost = info["lives"] < self._lives
            self._lives[:] = info["lives"]
        return Step(obs, reward, terminated, truncated, lost)


def _task(config: EnvConfig, known: list[str]) -> tuple[str, dict[str, Any]]:
    """Returns envpool's name and arguments for what the configuration means."""
    registered = _atari(config) if config.name not in known else None
    if registered is None:
        if config.life_loss:
            raise ValueError(
                f"expected an Atari game like PongNoFrameskip-v4 for --life_loss, got {config.name}"
            )
        name = _of_dm_control(config.name)
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 3, cutoff=0)
            raise UnknownEnvironment(
                f"expected an environment of envpool, got {config.name!r}; the nearest are "
                f"{', '.join(nearest)}; --env_backend=auto may know it"
            )
        return name, {}
    kwargs = atari.protocol(registered, {})
    game = re.sub(r"^ALE/|NoFrameskip(?=-)", "", registered.id)
    return re.sub(r"-v\d+$", "-v5", game), {
        "repeat_action_probability": kwargs["repeat_action_probability"],
        "max_episode_steps": kwargs["max_num_frames_per_episode"] // FRAMES_PER_STEP,
        "episodic_life": False,
        "reward_clip": False,
        "use_fire_reset": True,
        "noop_max": 30,
        "stack_num": 4,
        "frame_skip": FRAMES_PER_STEP,
    }


def _atari(config: EnvConfig) -> Registered | None:
    try:
        return registry.find(config.env) if registry.is_atari(config) else None
    except UnknownEnvironment:  # Gymnasium's nearest names are of no use here
        return None


def _of_dm_control(name: str) -> str:
    """Returns ``CheetahRun-v1`` for ``dm_control/cheetah-run-v0``; all others as they are."""
    match = re.fullmatch(r"dm_control/(\w+)-(\w+)-v0", name)
    if match is None:
        return name
    words = "_".join(match.groups()).split("_")
    return "".join(word[:1].upper() + word[1:] for word in words) + "-v1"


def _repaired(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Returns a space as what comes or is taken: envpool's own is wrong about some."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _repaired(sub) for key, sub in space.spaces.items()})
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n), start=int(space.start), dtype=np.int32)
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        # dm_control's "no bound" is the smallest positive number for the lower one.
        none = (space.low == np.finfo(space.dtype).tiny) | (space.low <= -UNLIMITED)
        low = np.where(none, -np.inf, space.low)
        high = np.where(space.high >= UNLIMITED, np.inf, space.high)
        return spaces.Box(low, high, space.shape, space.dtype.type)
    return space

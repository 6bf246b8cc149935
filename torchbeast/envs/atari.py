"""Atari games, stepped by the C++ threads of ale-py."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec as Registered

from torchbeast.data import EnvSpec, Tree
from torchbeast.envs.picture import enlarged
from torchbeast.envs.vector import Step, VectorEnv, env_seeds

ENTRY_POINT = "ale_py.env:AtariEnv"
# What AtariEnv fixes itself: life_loss and the reward are the business of this class.
FIXED = {
    "num_envs",
    "batch_size",
    "autoreset_mode",
    "episodic_life",
    "life_loss_info",
    "reward_clipping",
    "num_threads",
}


class AtariEnv(VectorEnv):
    """B Atari games with the preprocessing of DQN, by one of two protocols.

    ``PongNoFrameskip-v4`` is the ancestor's: each action lasts 4 frames, of which the pixelwise
    maximum of the last two is seen, 84x84 grey, 4 such pictures per observation [4, 84, 84],
    up to 30 no-ops at the start, FIRE where the game waits for it, the game's own minimal set
    of actions, 108000 emulator frames at most. ``ALE/Pong-v5`` is the same with sticky actions:
    with probability 0.25 the emulator repeats the last action.

    Differences of ale-py 0.12 from the wrappers of the ancestor (OpenAI baselines):

    - A new game's stack holds one picture and three black ones, not four times the first.
    - FIRE is pressed once, as one emulator frame inside the reset, not as two agent steps.
    - The count of no-ops is drawn from 0..29 by C++, not from 1..30 by NumPy.
    - After a lost life nothing is pressed: in games that wait for FIRE the agent must press it.
    - The area average of the resize may differ by a grey level from OpenCV's.

    A lost life with ``life_loss`` gives discount 0 while the game goes on. ale-py's own
    ``episodic_life`` is never used: with next-step autoreset it begins a new game at each
    lost life. The emulators' state cannot be saved through ale-py's vector: no snapshot.

    Args:
        registered: the entry in Gymnasium's registry.
        num_envs: B.
        seed: of no-ops and sticky actions.
        num_threads: threads that step the games; 0 takes one per core.
        life_loss: a lost life gives discount 0.
        env_kwargs: arguments of ``ale_py.AtariVectorEnv`` that override the protocol.
    """

    def __init__(
        self,
        registered: Registered,
        num_envs: int,
        seed: int,
        num_threads: int = 0,
        life_loss: bool = False,
        env_kwargs: dict[str, Any] | None = None,
    ) -> None:
        from ale_py.vector_env import AtariVectorEnv

        settings = protocol(registered, env_kwargs or {})
        self._ale = AtariVectorEnv(
            num_envs=num_envs,
            num_threads=min(num_threads, num_envs),
            reward_clipping=False,
            **settings,
        )
        # ale-py shares one metadata between all its vectors: leave ours to ourselves.
        self._ale.metadata = dict(self._ale.metadata)
        spec = EnvSpec(
            self._ale.single_observation_space,
            self._ale.single_action_space,
            settings.get("stack_num", 4),
        )
        super().__init__(spec, num_envs, registered.id)
        self.spec.action.seed(seed)
        assert spec.action.dtype is not None
        self._action_dtype = spec.action.dtype
        self._seeds: np.ndarray[Any, Any] | None = np.array(env_seeds(seed, num_envs))
        self._life_loss = life_loss
        self._lives = np.zeros(num_envs, np.int64)
        self._obs: Any = None

    def render(self) -> np.ndarray[Any, Any]:
        """Returns the newest picture of game 0 as the agent sees it, enlarged, [H, W, 3].

        ale-py's vector does not show the colours of the screen.
        """
        if self._obs is None:
            raise ValueError("expected reset() before render()")
        return enlarged(self._obs[0, -1])

    def close(self) -> None:
        """Ends the games and their threads."""
        self._ale.close()
        vars(self._ale).pop("ale", None)  # the C++ object joins its threads when it goes

    def _reset(self) -> Tree:
        self._obs, info = self._ale.reset(seed=self._seeds)
        self._seeds = None  # a second reset goes on with the same random numbers
        self._lives[:] = info["lives"]
        return self._obs

    def _send(self, action: Tree) -> None:
        self._ale.send(np.ascontiguousarray(action, self._action_dtype))

    def _recv(self) -> Step:
        self._obs, reward, terminated, truncated, info = self._ale.recv()
        lives = info["lives"]
        lost = lives < self._lives if self._life_loss else None
        self._lives[:] = lives
        return Step(self._obs, reward, terminated, truncated, lost)


def protocol(registered: Registered, env_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of ``AtariVectorEnv`` that an id of the registry means.

    Raises:
        ValueError: the id has no such protocol, or an argument is not the user's to set.
    """
    fixed = FIXED & env_kwargs.keys()
    if fixed:
        raise ValueError(
            f"expected env_kwargs without {sorted(fixed)}: TorchBeast sets them; "
            f"see --life_loss, --reward_clip, --env_threads"
        )
    kwargs = dict(registered.kwargs)
    if kwargs.get("obs_type", "rgb") != "rgb" or not isinstance(kwargs["frameskip"], int):
        raise ValueError(
            f"expected a game like PongNoFrameskip-v4 or ALE/Pong-v5, got {registered.id}, which "
            f"skips a random number of frames or shows the RAM; --env_backend=gymnasium takes it "
            f"without preprocessing"
        )
    kwargs["frameskip"] = 4  # the registry's 1 leaves the skipping to wrappers
    return kwargs | env_kwargs

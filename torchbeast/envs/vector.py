"""The one shape in which environments are met: B of them, answered at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from torchbeast.data import EnvSpec, Tree
from torchbeast.envs.actions import all_finite, gate


class Arrival(NamedTuple):
    """What came from B environments: the arriving half of a row (see ``data/rollout.py``)."""

    obs: Tree  # [B, ...]
    reward: np.ndarray[Any, Any]  # [B] f32, unclipped
    discount: np.ndarray[Any, Any]  # [B] f32, 0 where obs is terminal
    first: np.ndarray[Any, Any]  # [B] bool, obs begins an episode


class Episode(NamedTuple):
    """One finished game: never a life, never of clipped rewards."""

    env: int  # its index in the vector
    episode_return: float  # sum of the unclipped rewards
    length: int  # agent steps
    truncated: bool  # ended by a time limit


class Step(NamedTuple):
    """What a source of environments reports after one step, before the accounting."""

    obs: Tree
    reward: Any  # [B]
    terminated: np.ndarray[Any, Any]  # [B] bool
    truncated: np.ndarray[Any, Any]  # [B] bool
    life_lost: np.ndarray[Any, Any] | None = None  # [B] bool: no bootstrap, but the game goes on
    # [B] bool: replaced after a fault; obs begins an episode and the broken one counts for nothing
    aborted: np.ndarray[Any, Any] | None = None


class EnvError(RuntimeError):
    """An environment broke: it raised, or gave something that cannot be learned from."""


class VectorEnv(ABC):
    """B environments with next-step autoreset: the final observation is a row of its own.

    The step after an episode's end ignores its action and brings the first observation of the
    next episode with reward 0. Sources implement ``_reset``, ``_send``, ``_recv`` and ``close``;
    the accounting of episodes and the checks of actions are here, once for all sources.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, name: str = "") -> None:
        self.spec = spec
        self.num_envs = num_envs
        self.name = name or type(self).__name__  # for messages
        self._gate = gate(spec.action, num_envs)
        self._ones = np.ones(num_envs, np.float32)
        self._ended = np.zeros(num_envs, bool)  # in the newest row
        self._some_ended = False
        self._returns = np.zeros(num_envs)
        self._clock = 0  # steps of the vector
        self._began = np.zeros(num_envs, np.int64)  # the clock at the episode's first row
        self._episodes: list[Episode] = []

    def reset(self) -> Arrival:
        """Returns the first row: every environment begins an episode."""
        obs = self._reset()
        first = np.ones(self.num_envs, bool)
        self._begin_episodes(first)
        self._ended = ~first
        self._some_ended = False
        return Arrival(obs, np.zeros(self.num_envs, np.float32), self._ones.copy(), first)

    def send(self, action: Tree) -> None:
        """Begins the next step with the actions [B, ...] in the types of the action space.

        Those of a Box are clipped to its bounds on the way; ``action`` itself stays.

        Raises:
            ValueError: an action has the wrong shape or lies outside the action space.
        """
        self._send(self._gate(action))

    def recv(self) -> Arrival:
        """Returns the row that the last ``send`` led to; waits for it.

        Its arrays are the source's own and change with the next ``send``: copy what must stay.

        Raises:
            EnvError: an environment broke, or gave a reward that is not finite.
        """
        step = self._recv()
        self._clock += 1
        # NumPy takes about a microsecond for an array of eight: most rows begin and end nothing.
        if step.aborted is not None:
            self._ended |= step.aborted
            self._some_ended = True
        first = self._ended
        reward = step.reward.astype(np.float32)
        self._returns += step.reward
        if self._some_ended:
            reward[first] = 0
            self._begin_episodes(first)
        if not all_finite(reward):
            self._refuse_reward(reward)
        discount = self._ones.copy()
        self._ended = np.logical_or(step.terminated, step.truncated)
        self._some_ended = bool(np.count_nonzero(self._ended))
        if self._some_ended:
            discount[step.terminated] = 0
            self._finish_episodes(step)
        if step.life_lost is not None:
            discount[step.life_lost] = 0
        return Arrival(step.obs, reward, discount, first)

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended since the last call."""
        finished, self._episodes = self._episodes, []
        return finished

    def snapshot(self) -> dict[str, Any] | None:
        """Returns the state of the environments as plain data, or None if they cannot say it."""
        inner = self._snapshot()
        if inner is None:
            return None
        return {
            "inner": inner,
            "ended": self._ended.tolist(),
            "returns": self._returns.tolist(),
            "lengths": (self._clock - self._began).tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Puts the environments back into the state of a ``snapshot``.

        Raises:
            ValueError: the snapshot is of other environments.
        """
        if len(state["ended"]) != self.num_envs:
            raise ValueError(
                f"expected a snapshot of {self.num_envs} environments, got one of "
                f"{len(state['ended'])}; go on with as many as before"
            )
        self._restore(state["inner"])
        self._ended = np.array(state["ended"], bool)
        self._some_ended = bool(self._ended.any())
        self._returns[:] = state["returns"]
        self._began[:] = self._clock - np.array(state["lengths"])

    def render(self) -> np.ndarray[Any, Any]:
        """Returns the picture [H, W, 3] of environment 0.

        Raises:
            ValueError: this source has no picture.
        """
        raise ValueError(f"{type(self).__name__} draws no picture; use one in-process environment")

    @abstractmethod
    def close(self) -> None:
        """Ends the environments and everything they hold."""

    @abstractmethod
    def _reset(self) -> Tree: ...

    @abstractmethod
    def _send(self, action: Tree) -> None: ...

    @abstractmethod
    def _recv(self) -> Step: ...

    def _snapshot(self) -> dict[str, Any] | None:
        return None

    def _restore(self, state: dict[str, Any]) -> None:
        raise ValueError(f"{type(self).__name__} cannot restore a snapshot")

    def _refuse_reward(self, reward: np.ndarray[Any, Any]) -> None:
        i = int(np.flatnonzero(~np.isfinite(reward))[0])
        raise EnvError(
            f"expected finite rewards from {self.name}, got {reward[i]} from environment {i} at "
            f"step {self._clock - self._began[i]} of its episode; repair the environment"
        )

    def _begin_episodes(self, first: np.ndarray[Any, Any]) -> None:
        self._returns[first] = 0
        self._began[first] = self._clock

    def _finish_episodes(self, step: Step) -> None:
        for i in np.flatnonzero(self._ended):
            truncated = bool(step.truncated[i] and not step.terminated[i])
            length = int(self._clock - self._began[i])
            self._episodes.append(Episode(int(i), float(self._returns[i]), length, truncated))


def env_seeds(seed: int, num_envs: int, incarnation: int = 0) -> list[int]:
    """Returns one seed of 31 bits for each environment; they share no random numbers.

    ``incarnation`` counts how often an environment was replaced: each gets numbers of its own.
    """
    later = (incarnation,) if incarnation else ()
    sequences = (np.random.SeedSequence(seed, spawn_key=(i, *later)) for i in range(num_envs))
    return [int(sequence.generate_state(1)[0]) >> 1 for sequence in sequences]

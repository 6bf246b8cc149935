"""Environments that step all together in one call of NumPy: Gymnasium's own vectors."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode

from torchbeast.data import EnvSpec, Tree, array_specs
from torchbeast.envs import snapshot
from torchbeast.envs.vector import Step, VectorEnv, env_seeds

JAX = (".phys2d.", ".tabular.")  # in the entry points of Gymnasium that need JAX


class NativeEnv(VectorEnv):
    """B environments of a ``vector_entry_point`` in Gymnasium's registry, such as CartPole-v1's.

    They are the environments of the plain id with other random numbers: one generator draws
    the beginnings of all, so an episode depends on the seed and on B.

    Args:
        registered: the entry in Gymnasium's registry, one that ``steps_together``.
        num_envs: B.
        seed: of the generator.
    """

    def __init__(self, registered: Registered, num_envs: int, seed: int) -> None:
        self._vector = gymnasium.make_vec(
            registered, num_envs, vectorization_mode="vector_entry_point"
        )
        spec = EnvSpec(self._vector.single_observation_space, self._vector.single_action_space)
        array_specs(spec.observation)  # refuses what has no fixed shape
        super().__init__(spec, num_envs, registered.id)
        self.spec.action.seed(seed)
        # send() has checked the actions; Gymnasium's check takes a seventh of CartPole's step.
        vars(self._vector.action_space)["contains"] = lambda action: True
        self._seed: int | None = env_seeds(seed, 1)[0]
        self._action: Tree = None

    def close(self) -> None:
        """Closes the environments."""
        self._vector.close()

    def _reset(self) -> Tree:
        seed, self._seed = self._seed, None  # a second reset goes on with the same generator
        return self._vector.reset(seed=seed)[0]

    def _send(self, action: Tree) -> None:
        self._action = action

    def _recv(self) -> Step:
        return Step(*self._vector.step(self._action)[:4])

    def _snapshot(self) -> dict[str, Any] | None:
        return snapshot.capture([self._vector])

    def _restore(self, state: dict[str, Any]) -> None:
        snapshot.restore([self._vector], state)
        self._seed = None


def steps_together(registered: Registered) -> bool:
    """Returns whether an entry of the registry has a vector that keeps the contract."""
    entry = registered.vector_entry_point
    if not isinstance(entry, str) or registered.additional_wrappers:
        return False
    if any(part in entry for part in JAX):
        return False
    metadata = getattr(load_env_creator(entry), "metadata", {})
    return metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP

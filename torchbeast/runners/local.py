"""Acting in the learner's own process: serial over Python environments, synchronous over native
ones or worker processes, alternating over groups. Acting and learning take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchbeast.algorithms.base import Algorithm
from torchbeast.data.queue import RolloutQueue
from torchbeast.data.slots import Slot
from torchbeast.envs.vector import Episode, VectorEnv
from torchbeast.loops.alternating import make_actor
from torchbeast.loops.policy import Policy
from torchbeast.loops.weights import LocalWeights


class LocalSource:
    """Acts with the learner's own model until a batch is ready.

    Args:
        algorithm: acts; its model is the learner's.
        env: the environments of this process; groups of them take turns.
        weights: tells the version of the model.
        batch_size: environments per batch.
        on_row: called before each row is answered; may raise Interrupted.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        env: VectorEnv,
        weights: LocalWeights,
        batch_size: int,
        on_row: Callable[[], None] | None = None,
    ) -> None:
        self.env = env
        spec = algorithm.rollout_spec()
        unroll_length = algorithm.needs.unroll_length
        self._free: list[Slot] = []
        self.queue = RolloutQueue(
            spec,
            unroll_length,
            env.num_envs,
            batch_size,
            self._free.append,
            pin_memory=algorithm.device.type == "cuda",
        )
        num_slots = max(1, batch_size // env.num_envs)
        self._free += [Slot(spec, unroll_length, env.num_envs) for _ in range(num_slots)]
        policy = Policy(algorithm, algorithm.model, weights, env.num_envs)
        self.actor = make_actor(env, policy, on_row)

    def fill(self) -> None:
        """Returns when the queue has a batch ready; acts only if it has none."""
        while not self.queue.ready():
            slot = self._free.pop()
            try:
                self.actor.collect(slot)
            except BaseException:
                self._free.append(slot)
                raise
            self.queue.put(slot)

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended since the last call."""
        return self.env.episodes()

    def metrics(self) -> dict[str, float]:
        """Returns what the environments say of themselves."""
        restarts = getattr(self.env, "restarts", 0)
        return {"env_restarts": float(restarts)} if restarts else {}

    def snapshot(self) -> dict[str, Any] | None:
        """Returns the state of acting; None if it cannot be captured or rollouts still wait."""
        return self.actor.snapshot() if len(self.queue) == 0 else None

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Goes on from a ``snapshot``."""
        self.actor.restore(snapshot)

    def close(self) -> None:
        """Ends the environments."""
        self.env.close()

"""Acting in the learner's own process: serial, or with many environments at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchbeast.algorithms.base import Algorithm
from torchbeast.data.slots import Slot
from torchbeast.envs.vector import Episode, VectorEnv
from torchbeast.loops.alternating import make_actor
from torchbeast.loops.policy import Policy, places
from torchbeast.loops.weights import LocalWeights
from torchbeast.runners.buffers import Acting, Keeping, make_buffer, slots_for_a_batch


class LocalSource:
    """Acts with the learner's own model until a batch is ready.

    Args:
        algorithm: acts; its model is the learner's.
        env: the environments of this process; groups of them take turns.
        weights: tells the version of the model.
        on_row: called before each row is answered; may raise Interrupted.
        acting: where ``env`` stands among the environments of all learners; by default alone.
        keeping: how a replay keeps what it is given.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        env: VectorEnv,
        weights: LocalWeights,
        on_row: Callable[[], None] | None = None,
        acting: Acting | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.env = env
        acting = acting or Acting(env.num_envs)
        self._free: list[Slot] = []
        self._episodes: list[Episode] = []
        self.buffer = make_buffer(algorithm, acting, keeping or Keeping(), self._free.append)
        spec, unroll_length = algorithm.rollout_spec(), algorithm.needs.unroll_length
        num_slots = slots_for_a_batch(algorithm, env.num_envs)
        self._free += [Slot(spec, unroll_length, env.num_envs) for _ in range(num_slots)]
        where = places(env.num_envs, acting.first, acting.total)
        policy = Policy(algorithm, algorithm.model, weights, env.num_envs, where)
        self.actor = make_actor(env, policy, on_row)

    def fill(self) -> None:
        """Returns when the buffer has a batch ready; acts only if it has none."""
        while not self.buffer.ready():
            slot = self._free.pop()
            try:
                self.actor.collect(slot)
            except BaseException:
                self._free.append(slot)
                self.env.episodes()  # of a rollout that is dropped
                raise
            self._episodes += self.env.episodes()
            self.buffer.put(slot)

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended since the last call, in rollouts that were filled."""
        taken, self._episodes = self._episodes, []
        return taken

    def metrics(self) -> dict[str, float]:
        """Returns what the environments and the buffer say of themselves."""
        restarts = getattr(self.env, "restarts", 0)
        return ({"env_restarts": float(restarts)} if restarts else {}) | self.buffer.metrics()

    def snapshot(self) -> dict[str, Any] | None:
        """Returns the state of acting; None if it cannot be captured or rollouts still wait."""
        return self.actor.snapshot() if self.buffer.waiting() == 0 else None

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Goes on from a ``snapshot``."""
        self.actor.restore(snapshot)

    def close(self) -> None:
        """Ends the environments."""
        self.env.close()

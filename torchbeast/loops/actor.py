"""Acting: the loop that fills rollouts."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch

from torchbeast.data import Tree, array_specs, tree_leaves, tree_map
from torchbeast.data.slots import Slot
from torchbeast.data.spec import tree_map_specs
from torchbeast.envs.vector import Arrival, VectorEnv
from torchbeast.loops.policy import Answers


class Actor:
    """Steps B environments with the answers of a policy, and writes both down.

    Args:
        env: the environments.
        policy: answers their rows.
        on_row: called before each row is answered; may raise to leave a rollout unfinished.
    """

    def __init__(
        self, env: VectorEnv, policy: Answers, on_row: Callable[[], None] | None = None
    ) -> None:
        self.env = env
        self.policy = policy
        self._on_row = on_row
        self._no_action = tree_map_specs(
            lambda leaf: np.zeros((env.num_envs, *leaf.shape), leaf.dtype),
            array_specs(env.spec.action),
        )
        self._arrival: list[Any] = []  # the leaves of the newest row, not yet answered

    def collect(self, slot: Slot) -> None:
        """Fills ``slot``: T + 1 rows, of which the last is answered in the next rollout."""
        self.policy.refresh()
        for _ in self.turns(slot):
            pass

    def turns(self, slot: Slot) -> Generator[None, None, None]:
        """Yields while the environments step, for others to be answered; fills ``slot``.

        The weights are those of the last ``refresh``. However it ends, the environments have
        been heard out: the next rollout goes on with the newest row.
        """
        if not self._arrival:
            self._arrival = self._leaves(self.env.reset(), self._no_action)
        for t in range(slot.unroll_length):
            if self._on_row is not None:
                self._on_row()
            slot.write_arrival(t, self._arrival)
            action = self.policy.answer(slot, t)
            self.env.send(action)
            try:
                yield
            finally:
                self._arrival = self._leaves(self.env.recv(), action)
        slot.write_arrival(slot.unroll_length, self._arrival)
        slot.end()

    def snapshot(self) -> dict[str, Any] | None:
        """Returns what acting needs to go on from here, or None if the environments cannot say."""
        env = self.env.snapshot()
        if env is None or not self._arrival:
            return None
        return {
            "env": env,
            "arrival": [torch.from_numpy(np.array(x)) for x in self._arrival],
            "state": [x.cpu().clone() for x in tree_leaves(self.policy.state)],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Goes on from a ``snapshot``."""
        self._arrival = self._leaves(self.env.reset(), self._no_action)
        self.env.restore(snapshot["env"])
        self._arrival = [x.numpy() for x in snapshot["arrival"]]
        for x, saved in zip(tree_leaves(self.policy.state), snapshot["state"], strict=True):
            x.copy_(saved)

    def _leaves(self, arrival: Arrival, action: Tree) -> list[Any]:
        first = arrival.first
        if first.any():
            action = tree_map(lambda x: np.where(_like(first, x), 0, x), action)
        return tree_leaves((*arrival, action))


def _like(first: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return first.reshape(-1, *(1,) * (x.ndim - 1))

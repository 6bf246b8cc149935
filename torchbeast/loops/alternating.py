"""Acting on groups of environments that take turns: while some step, others are answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from torchbeast.data import Tree, tree_map
from torchbeast.data.slots import Slot
from torchbeast.envs.vector import Episode, Step, VectorEnv, env_seeds
from torchbeast.loops.actor import Actor
from torchbeast.loops.policy import Answers


class EnvGroups(VectorEnv):
    """Vectors of equal width side by side, as one vector or for ``Alternating`` to step by turns.

    One or the other: each group keeps the account of the episodes that it steps by itself.
    """

    def __init__(self, groups: Sequence[VectorEnv]) -> None:
        first, width = groups[0], groups[0].num_envs
        super().__init__(first.spec, len(groups) * width, first.name)
        self.groups = groups
        self.columns = [slice(i * width, (i + 1) * width) for i in range(len(groups))]
        for i, group in enumerate(groups):
            group.name = f"{group.name}, group {i}"

    @property
    def restarts(self) -> int:
        """Returns how many workers of all groups were replaced."""
        return sum(getattr(group, "restarts", 0) for group in self.groups)

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended since the last call; ``env`` counts over all groups."""
        episodes = super().episodes()
        for group, columns in zip(self.groups, self.columns, strict=True):
            episodes += [e._replace(env=columns.start + e.env) for e in group.episodes()]
        return episodes

    def close(self) -> None:
        """Ends all groups; every one, whatever another does."""
        with contextlib.ExitStack() as stack:
            for group in self.groups:
                stack.callback(group.close)

    def _reset(self) -> Tree:
        return _side_by_side([group._reset() for group in self.groups])

    def _send(self, action: Tree) -> None:
        for group, columns in zip(self.groups, self.columns, strict=True):
            group._send(tree_map(lambda x, of=columns: x[of], action))

    def _recv(self) -> Step:
        none = np.zeros(self.groups[0].num_envs, bool)
        steps = [
            tuple(none if field is None else field for field in group._recv())
            for group in self.groups
        ]
        return Step(*_side_by_side(steps))


class Alternating:
    """Does what an ``Actor`` does, with groups of environments that take turns::

        policy   answers 0   answers 1   answers 0   answers 1   answers 0
        group 0              steps                   steps
        group 1                          steps                   steps

    Each group has its own columns of the rollout, recurrent states and episodes. One model
    answers them all, so newer weights come in between rollouts only. A row takes as long as
    stepping or answering, whichever is longer, where it took both; the price is a forward pass
    for each group.

    Args:
        env: the groups.
        policy: answers their rows, those of one group at a time.
        on_row: called before each row of a group is answered; may raise to leave a rollout
            unfinished.
    """

    def __init__(
        self, env: EnvGroups, policy: Answers, on_row: Callable[[], None] | None = None
    ) -> None:
        self.env = env
        self.policy = policy
        self._actors = [
            Actor(group, policy.share(columns), on_row)
            for group, columns in zip(env.groups, env.columns, strict=True)
        ]
        self._parts: dict[Slot, list[Slot]] = {}  # slots are few, and views cost time to make

    def collect(self, slot: Slot) -> None:
        """Fills ``slot``: T + 1 rows, of which the last is answered in the next rollout."""
        if slot not in self._parts:
            self._parts[slot] = [slot.columns(columns) for columns in self.env.columns]
        self.policy.refresh()
        with contextlib.ExitStack() as stack:  # a group that breaks off leaves none unheard
            turns = []
            for actor, part in zip(self._actors, self._parts[slot], strict=True):
                turns.append(stack.enter_context(contextlib.closing(actor.turns(part))))
            for _ in zip(*turns, strict=True):  # strict: each is run to its end
                pass

    def snapshot(self) -> dict[str, Any] | None:
        """Returns what acting needs to go on from here, or None if the environments cannot say."""
        groups = [actor.snapshot() for actor in self._actors]
        return None if None in groups else {"groups": groups}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Goes on from a ``snapshot``."""
        for actor, saved in zip(self._actors, snapshot["groups"], strict=True):
            actor.restore(saved)


def make_actor(
    env: VectorEnv, policy: Answers, on_row: Callable[[], None] | None = None
) -> Actor | Alternating:
    """Returns what acts in ``env``: by turns if it is in groups."""
    if isinstance(env, EnvGroups):
        return Alternating(env, policy, on_row)
    return Actor(env, policy, on_row)


def in_groups(
    makes: Sequence[Callable[[int, int], VectorEnv]], num_envs: int, seed: int
) -> VectorEnv:
    """Returns ``num_envs`` environments in groups, one of each ``make(num_envs, seed)``.

    The groups share no random numbers; one group is what its ``make`` alone returns.
    """
    if len(makes) == 1:
        return makes[0](num_envs, seed)
    with contextlib.ExitStack() as stack:
        made = []
        for make, group_seed in zip(makes, env_seeds(seed, len(makes)), strict=True):
            made.append(make(num_envs // len(makes), group_seed))
            stack.callback(made[-1].close)
        stack.pop_all()
    return EnvGroups(made)


def _side_by_side(parts: list[Tree]) -> Tree:
    return tree_map(lambda *leaves: np.concatenate(leaves), *parts)

"""What flows: the rollout. Read this page first."""

from __future__ import annotations

from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

Tree = Any  # a tensor, or a dict, list or tuple of trees


class Rollout(NamedTuple):
    """T + 1 consecutive rows of B environments.

    Row t is one visit to one observation: what came (``obs``, ``reward``, ``discount``,
    ``first``, ``prev_action``) and what was answered (``action``, ``extras``). The last row of a
    rollout is row 0 of the next, so T + 1 rows hold T transitions; transition t leads from row t
    to row t + 1. The last row is answered only when the next rollout begins, with whatever
    weights are current then: here its ``action`` and ``extras`` are zero.

    Every observation is a row, also the last one of an episode (next-step autoreset)::

        row        ...   7        8        9        10   ...
        obs              o_7      o_8      o'_0     o'_1        o_8 is the final observation
        first            0        0        1        0
        discount         1        0 or 1   1        1           0 terminated, 1 time limit
        reward           r_7      r_8      0        r'_1
        transition          7->8    8->9     9->10
        valid               yes     no       yes                nobody chose the step 8 -> 9
    """

    obs: Tree  # [T+1, B, ...] as the environment gives it (pixels stay uint8)
    reward: Tensor  # [T+1, B] f32   earned on the way to obs[t]; unclipped; 0 where first
    discount: Tensor  # [T+1, B] f32   0 where obs[t] is terminal, else 1 (1 at a time limit)
    first: Tensor  # [T+1, B] bool  obs[t] begins an episode: reset recurrent state before it
    prev_action: Tree  # [T+1, B, ...] the action that led to obs[t]; 0 where first
    action: Tree  # [T+1, B, ...] the action chosen at obs[t]
    extras: dict[str, Tensor]  # [T+1, B, ...] what acting leaves for learning: logits, value, ...
    state: Tree  # tree of [N, B, H]  recurrent state before row 0; () if there is none
    version: Tensor  # [B] i64  version of the weights that acted

    def rows(self, index: slice) -> Rollout:
        """Returns the rollout of the rows in ``index``; ``state`` and ``version`` stay."""
        row_fields = [tree_map(lambda x: x[index], field) for field in self[:ROW_FIELDS]]
        return Rollout._make([*row_fields, self.state, self.version])

    def columns(self, index: slice) -> Rollout:
        """Returns the rollout of the environments in ``index``."""
        along_batch = [tree_map(lambda x: x[:, index], field) for field in self[: ROW_FIELDS + 1]]
        return Rollout._make([*along_batch, self.version[index]])

    def to(self, device: torch.device) -> Rollout:
        """Returns the rollout on ``device``; does not wait for the copy of pinned memory."""
        if self.reward.device == device:
            return self
        return Rollout(*tree_map(lambda x: x.to(device, non_blocking=True), tuple(self)))

    @property
    def num_transitions(self) -> int:
        """Returns T * B."""
        return (self.reward.shape[0] - 1) * self.reward.shape[1]


ROW_FIELDS = 7  # obs ... extras lie along time; state and version do not


def tree_map(function: Any, tree: Tree, *rest: Tree) -> Tree:
    """Returns ``tree`` with ``function`` applied to each leaf (and those of ``rest`` beside it)."""
    return optree.tree_map(function, tree, *rest)


def tree_leaves(tree: Tree) -> list[Any]:
    """Returns the leaves of ``tree`` in a fixed order (dict keys sorted)."""
    return optree.tree_leaves(tree)

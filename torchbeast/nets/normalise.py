"""Observations and rewards in units of their own running mean and deviation.

The statistics are buffers of the model: they lie in its checkpoint and travel with its weights.
Answering never changes them, so acting and learning see the same numbers, and evaluation those of
training; the algorithm does, at the end of an update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from torchbeast.data import EnvSpec, Rollout, Tree, tree_leaves
from torchbeast.data.replay import stacked
from torchbeast.data.spec import ACTION_MASK
from torchbeast.nets.encoders import Path, follow, is_box_image, leaves
from torchbeast.ops.moments import Moments, batch_sums, discounted_sums, initial_moments, merge

CLIP = 10.0  # deviations; what lies beyond counts as this far
EPSILON = 1e-8  # added to variances
SumOverRanks = Callable[[Tensor], Tensor]


class Normalised(nn.Module):
    """A model that sees standardised observations and knows the scale of rewards.

    Rewards are divided by the deviation of the discounted return G, as in baselines' VecNormalize;
    their mean stays. G goes from row to row of each environment, so it lies in the recurrent state:
    {"return": [1, B, 1], "model": the model's own}.

    Args:
        model: what answers.
        spec: what the environments show.
        observations: standardise numbers in observations; pixels and codes stay.
        rewards: keep the scale of rewards.
        discounting: of the returns.
    """

    def __init__(
        self, model: nn.Module, spec: EnvSpec, observations: bool, rewards: bool, discounting: float
    ) -> None:
        super().__init__()
        self.model = model
        self.rewards = rewards
        self.discounting = discounting
        found = leaves(spec.observation) if observations else []
        self.shapes: dict[Path, tuple[int, ...]] = {
            path: tuple(leaf.shape or ())
            for path, leaf in found
            if _is_number(leaf) and path != (ACTION_MASK,)
        }
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.seen = Running(sum(self.sizes))
        self.returns = Running(1)

    def forward(self, rows: Rollout, state: Tree, **settings: Any) -> tuple[Any, Tree]:
        """Returns the model's answer to rows [T, B], and the state after; it gets ``settings``."""
        if self.shapes:
            rows = rows._replace(obs=self._standardised(stacked(rows.obs)))
        if not self.rewards or not isinstance(state, dict):  # () for single transitions
            return self.model(rows, state, **settings)
        answer, inner = self.model(rows, state["model"], **settings)
        returns = self.discounted_returns(rows, state)
        return answer, {"return": returns[-1:].unsqueeze(-1), "model": inner}

    def initial_state(self, batch_size: int) -> Tree:
        """Returns the state before an episode."""
        inner = self.model.initial_state(batch_size)  # type: ignore[operator]
        if not self.rewards:
            return inner
        zeros = torch.zeros(1, batch_size, 1, device=self.returns.mean.device)
        return {"return": zeros, "model": inner}

    def distribution(self, logits: Tensor) -> Any:
        """Returns the distribution over actions that ``logits`` [..., P] stand for."""
        return self.model.distribution(logits)  # type: ignore[operator]

    def discounted_returns(self, rows: Rollout, state: Tree) -> Tensor:
        """Returns G [T, B] of rows [T, B] that ``state`` came before."""
        before = state["return"][..., 0]
        if len(rows.reward) == 1:  # acting: an eighth of the time
            onward = torch.add(rows.reward, before, alpha=self.discounting)
            return torch.where(rows.first, rows.reward, onward)
        return discounted_sums(rows.reward, rows.first, self.discounting, before[0])

    def numbers(self, obs: Tree) -> Tensor:
        """Returns the numbers [N, F] of observations [T, B, ...] that are standardised."""
        obs = stacked(obs)
        flat = [
            follow(obs, path).reshape(-1, size)
            for path, size in zip(self.shapes, self.sizes, strict=True)
        ]
        return torch.cat(flat, -1)

    def _standardised(self, obs: Tree) -> Tree:
        means, scales = [self.seen.mean], [self.seen.scale]
        if len(self.sizes) > 1:  # splitting costs as much as all the rest
            means, scales = (list(x.split(self.sizes)) for x in (*means, *scales))
        for (path, shape), mean, scale in zip(self.shapes.items(), means, scales, strict=True):
            if len(shape) != 1:
                mean, scale = mean.view(shape), scale.view(shape)
            # In float64 up to the end: subtracting the mean of what is far from 0 cancels digits.
            x = (follow(obs, path) - mean).mul_(scale).clamp_(-CLIP, CLIP)
            obs = _put(obs, path, x.float())
        return obs


class Running(nn.Module):
    """Mean, variance and 1 / deviation (``scale``) [F] of all taken in; 0, 1 and 1 before."""

    samples: Tensor
    mean: Tensor
    var: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        for name, value in initial_moments(features)._asdict().items():
            self.register_buffer(name, value)
        self.register_buffer("scale", torch.ones_like(self.var))

    @torch.no_grad()
    def take(self, x: Tensor, valid: Tensor | None, sum_over_ranks: SumOverRanks) -> None:
        """Takes samples [N, F] of all learners in; not those with ``valid`` [N] 0."""
        old = Moments(self.samples, self.mean, self.var)
        sums = sum_over_ranks(batch_sums(x, self.mean, valid))
        # One number that is not finite would stay for ever: such a batch is left out everywhere.
        sums = torch.where(torch.isfinite(sums).all(), sums, 0)
        for buffer, new in zip(old, merge(old, sums), strict=True):
            buffer.copy_(new)
        torch.rsqrt(self.var + EPSILON, out=self.scale)


def observe(model: nn.Module, batch: Rollout, sum_over_ranks: SumOverRanks) -> None:
    """Takes the observations of rows 0 .. T-1 into the statistics of a Normalised model.

    The last row is row 0 of the next rollout. ``sum_over_ranks`` adds up a tensor over learners,
    so that all keep the same statistics. Call it at the end of an update: until then the model
    must see what it saw when it acted.
    """
    if isinstance(model, Normalised) and model.shapes:
        numbers = model.numbers(batch.rows(slice(None, -1)).obs)
        model.seen.take(numbers, None, sum_over_ranks)


def normalised_rewards(model: nn.Module, batch: Rollout, sum_over_ranks: SumOverRanks) -> Tensor:
    """Returns the rewards of rows 1 .. T of a batch, [T, B], in the scale of a Normalised model.

    Their returns are taken into that scale first; other models give them back as they are.
    """
    reward = batch.reward[1:]
    if not isinstance(model, Normalised) or not model.rewards:
        return reward
    returns = model.discounted_returns(batch, batch.state)[1:]
    earned = ~batch.first[1:]  # nobody earned the 0 of a row that begins an episode
    model.returns.take(returns.reshape(-1, 1), earned.reshape(-1), sum_over_ranks)
    return (reward * model.returns.scale.float()).clamp(-CLIP, CLIP)


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside of a Normalised one; any other is its own."""
    return model.model if isinstance(model, Normalised) else model


def is_recurrent(model: nn.Module) -> bool:
    """Returns whether answers depend on a recurrent state; the running return is none."""
    inner: Any = unwrapped(model)
    return len(tree_leaves(inner.initial_state(1))) > 0


def _is_number(space: spaces.Space[Any]) -> bool:
    """Returns whether a leaf holds numbers to standardise: not pixels, codes or switches."""
    bytes_or_bools = space.dtype in (np.uint8, np.bool_)
    return isinstance(space, spaces.Box) and not bytes_or_bools and not is_box_image(space, 5)


def _put(tree: Tree, path: Path, leaf: Tensor) -> Tree:
    """Returns ``tree`` with another leaf at ``path``."""
    if not path:
        return leaf
    key, rest = path[0], path[1:]
    changed = _put(tree[key], rest, leaf)
    if isinstance(tree, dict):
        return {**tree, key: changed}
    return (*tree[:key], changed, *tree[key + 1 :])

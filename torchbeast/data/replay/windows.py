"""What is drawn from a replay: transitions over n steps, or sequences.

A window is an item with a number: the place in the ring where it starts. It may be drawn once its
last row is stored, and no more when the ring is about to write over its first row (or over a frame
that the stack of its first row needs).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from torchbeast.data.replay.memory import Array
from torchbeast.data.replay.ring import Ring
from torchbeast.data.rollout import Rollout


@dataclasses.dataclass(frozen=True)
class Transitions:
    """Transitions over n steps, or as many as the episode has left; each row may start one.

    They come as rollouts [2, B]: row 1 is where the value of what follows is asked for. Its reward
    is the sum of the discounted rewards on the way there, and its discount what is left of theirs
    after one factor gamma: reward + gamma * discount * V is the n-step target for any n.

    Args:
        n_step: n.
        discounting: gamma.
        clip_rewards: clamp each reward to [-1, 1] before they are summed up.
    """

    n_step: int
    discounting: float
    clip_rewards: bool = False

    def __post_init__(self) -> None:
        if self.n_step < 1:
            raise ValueError(f"expected an --n_step of at least 1, got {self.n_step}")

    @property
    def span(self) -> int:
        """Returns the rows that must be stored before a window may be drawn."""
        return self.n_step + 1

    def num_items(self, ring: Ring) -> int:
        """Returns how many numbers windows have."""
        return ring.num_rows

    def transitions(self, batch_size: int) -> int:
        """Returns how many transitions are learned from in a batch of so many windows."""
        return batch_size

    def closing(self, ring: Ring, lane: int) -> Array:
        """Returns the items that may not be drawn once the next rollout of a lane is stored."""
        return ring.address(lane, _closing(ring, lane, self.span, 1)).reshape(-1)

    def opened(self, ring: Ring, lane: int) -> Array:
        """Returns the items that may be drawn since the last rollout of a lane was stored."""
        address = ring.address(lane, _opened(ring, lane, self.span, 1)).reshape(-1)
        # Nobody chose the step from a final observation into the next episode.
        return address[~ring.arrays.first.take(ring.later(address, 1))]

    def cut(self, ring: Ring, items: Array, observations: bool = True) -> Rollout:
        """Returns the windows as a rollout [2, B] without state; observations () if not wanted."""
        way = ring.later(items, np.arange(self.span)[:, None])
        if self.n_step == 1:
            rollout = ring.rollout(way, observations, states=False)
            if self.clip_rewards:
                rollout.reward[1].clamp_(-1, 1)
            return rollout
        after = way[1:]
        reward = ring.arrays.reward.take(after)
        if self.clip_rewards:
            reward = reward.clip(-1, 1)
        discount, first = ring.arrays.discount.take(after), ring.arrays.first.take(after)
        reward, discount, steps = fold(reward, discount, first, self.discounting)
        way = np.stack([items, way[steps, np.arange(len(items))]])
        rollout = ring.rollout(way, observations, states=False)
        rollout.reward[1] = torch.from_numpy(reward)
        rollout.discount[1] = torch.from_numpy(discount)
        return rollout

    def place(self, ring: Ring, items: Array) -> Array:
        """Returns the addresses of the first rows of windows."""
        return items


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Consecutive rows with the recurrent state before the first; each rollout starts one.

    They come as rollouts [burn_in + length + 1, B]. Episodes may end within them.

    Args:
        burn_in: steps before those that are learned from.
        length: steps that are learned from.
    """

    burn_in: int
    length: int

    def __post_init__(self) -> None:
        if self.burn_in < 0 or self.length < 1:
            raise ValueError(
                f"expected sequences of at least 1 step after a burn-in of at least 0, got "
                f"{self.length} after {self.burn_in}; change --sequence_length or --burn_in"
            )

    @property
    def span(self) -> int:
        """Returns the rows that must be stored before a window may be drawn."""
        return self.burn_in + self.length + 1

    def num_items(self, ring: Ring) -> int:
        """Returns how many numbers windows have."""
        return ring.num_states

    def transitions(self, batch_size: int) -> int:
        """Returns how many transitions are learned from in a batch of so many windows."""
        return self.length * batch_size

    def closing(self, ring: Ring, lane: int) -> Array:
        """Returns the items that may not be drawn once the next rollout of a lane is stored."""
        rows = _closing(ring, lane, self.span, ring.unroll_length)
        return ring.start(ring.address(lane, rows).reshape(-1))

    def opened(self, ring: Ring, lane: int) -> Array:
        """Returns the items that may be drawn since the last rollout of a lane was stored."""
        rows = _opened(ring, lane, self.span, ring.unroll_length)
        return ring.start(ring.address(lane, rows).reshape(-1))

    def cut(self, ring: Ring, items: Array, observations: bool = True) -> Rollout:
        """Returns the windows as a rollout; observations () if not wanted."""
        steps = np.arange(self.span)[:, None]
        return ring.rollout(ring.later(self.place(ring, items), steps), observations)

    def place(self, ring: Ring, items: Array) -> Array:
        """Returns the addresses of the first rows of windows."""
        rollout, column = np.divmod(items, ring.width)
        return rollout * (ring.unroll_length * ring.width) + column


def fold(
    reward: Array, discount: Array, first: Array, discounting: float
) -> tuple[Array, Array, Array]:
    """Returns reward, discount and length [B] of windows of at most n transitions.

    Sutton and Barto 2018, section 7.1. ``reward``, ``discount`` and ``first`` are those of the
    rows [n, B] that the transitions lead to, the first of which somebody chose. A window ends
    before an episode begins and where the discount is 0. The length is at least 1; gamma times the
    discount belongs to the value at the window's end.
    """
    total = reward[0].astype(np.float64)
    left = discount[0].astype(np.float64)
    goes_on = np.ones(total.shape, bool)
    steps = np.ones(total.shape, np.int64)
    for k in range(1, len(reward)):
        goes_on = goes_on & (left != 0) & ~first[k]
        weight = np.where(goes_on, discounting * left, 0)
        total += weight * reward[k]
        left = np.where(goes_on, weight * discount[k], left)
        steps += goes_on
    return total, left, steps


def _closing(ring: Ring, lane: int, span: int, every: int) -> Array:
    complete = int(ring.count[lane]) - span + 1
    end = min(ring.oldest(lane, more=ring.unroll_length), complete)
    return _starts(ring.oldest(lane), end, every)


def _opened(ring: Ring, lane: int, span: int, every: int) -> Array:
    complete = int(ring.count[lane]) - span + 1
    return _starts(max(ring.oldest(lane), complete - ring.unroll_length), complete, every)


def _starts(begin: int, end: int, every: int) -> Array:
    return np.arange(-(-begin // every) * every, end, every)

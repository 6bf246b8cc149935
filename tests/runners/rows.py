"""What rollouts of the counting environment hold, checked row by row."""

from __future__ import annotations

import torch
from runners.fakes import NUM_ACTIONS, T

from torchbeast.data import Rollout, tree_leaves, tree_map
from torchbeast.data.slots import MAGIC_FLOAT


def take(pool, learner):
    """Returns a copy of the next batch after learning from it."""
    pool.fill()
    seen = []
    update = learner.algorithm.update

    def spy(batch, steps):
        seen.append(Rollout(*tree_map(torch.clone, tuple(batch))))
        return update(batch, steps)

    learner.algorithm.update = spy
    try:
        learner.step()
    finally:
        learner.algorithm.update = update
    return seen[0]


def check_rows(batch, served=False, forgets=False):
    """Checks all that one batch of the counting environment promises.

    ``served``: newer weights may answer later rows. ``forgets``: rows may be counted from anew.
    """
    seed, index, episode, step = batch.obs.unbind(-1)
    for leaf in tree_leaves(tuple(batch)):
        assert not (leaf == MAGIC_FLOAT).any()
    assert (seed == seed[:1]).all(), "two incarnations in one rollout"
    assert (index == index[:1]).all()
    end = step == 3 + index
    assert (batch.first == (step == 0)).all()
    assert (batch.reward == step).all()
    assert (batch.discount == 1 - (end & (episode % 2 == 1)).float()).all()
    assert (step[1:] == torch.where(end, 0, step + 1)[:-1]).all()
    assert (episode[1:] == (episode + end)[:-1]).all()
    assert (batch.prev_action[1:] == torch.where(batch.first[1:], 0, batch.action[:-1])).all()
    assert ((batch.action >= 0) & (batch.action < NUM_ACTIONS)).all()
    weight = batch.extras["weight"]
    if served:
        assert (weight[0] >= batch.version).all()
        assert (weight[1:-1] >= weight[:-2]).all()
    else:
        assert (weight[:-1] == batch.version).all()
    assert (batch.action[-1] == 0).all()
    assert (weight[-1] == 0).all()
    began = (step[0] == 0) & (episode[0] == 0)
    rows_before = torch.where(step[0] == 0, 4 + index[0], step[0])
    counted = batch.state[0][0, :, 0]
    expected = torch.where(began, 0, rows_before)
    assert (counted <= expected if forgets else counted == expected).all()


class Continuity:
    """Checks that row T of a rollout is row 0 of the next of the same environment."""

    def __init__(self):
        self.last = {}

    def __call__(self, batch):
        for i in range(batch.reward.shape[1]):
            column = batch.columns(slice(i, i + 1))
            key = tuple(column.obs[0, 0, :2].tolist())
            before, self.last[key] = self.last.get(key), column
            if before is None:
                assert column.obs[0, 0, 2:].tolist() == [0, 0], "rows were lost"
                continue
            for new, old in zip(tree_leaves(column[:5]), tree_leaves(before[:5]), strict=True):
                assert torch.equal(new[0], old[T])

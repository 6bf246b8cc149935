"""Slots: every view shows the same memory, and a row nobody wrote shows."""

from __future__ import annotations

import numpy as np
import optree
import pytest
import torch
from gymnasium import spaces

from torchbeast.data import EnvSpec, rollout_spec, tree_leaves, zero_rows
from torchbeast.data.slots import MAGIC_FLOAT, Slot, shared_slots, slots_in

T, B = 3, 2
SPEC = EnvSpec(
    spaces.Dict({"pixels": spaces.Box(0, 255, (2, 3), np.uint8), "speed": spaces.Box(-1, 1, (1,))}),
    spaces.Discrete(5),
)


def spec():
    row = zero_rows(SPEC, 1)
    state = (torch.zeros(2, 1, 7), torch.zeros(2, 1, 7))
    return rollout_spec(row._replace(extras={"logits": torch.zeros(1, 1, 5)}, state=state))


def test_shapes_and_types():
    rollout = Slot(spec(), T, B).rollout
    assert rollout.obs["pixels"].shape == (T + 1, B, 2, 3)
    assert rollout.obs["pixels"].dtype == torch.uint8
    assert rollout.reward.shape == rollout.discount.shape == (T + 1, B)
    assert rollout.first.dtype == torch.bool
    assert rollout.action.dtype == rollout.prev_action.dtype == torch.int64
    assert rollout.extras["logits"].shape == (T + 1, B, 5)
    assert [x.shape for x in rollout.state] == [(2, B, 7)] * 2
    assert rollout.version.shape == (B,)
    assert rollout.num_transitions == T * B


def write(slot, rng):
    """Returns the arrays that were written into every row."""
    written = optree.tree_map(lambda x: rng.integers(0, 2, x.shape), tuple(slot.arrays[:7]))
    for t in range(T + 1):
        row = optree.tree_map(lambda x, t=t: x[t], written)
        slot.write_arrival(t, tree_leaves(row[:5]))
        slot.write_answer(t, tree_leaves(row[5:]))
    return written


def test_rows_come_out_as_they_were_written():
    slot = Slot(spec(), T, B)
    slot.fill_magic()
    written = write(slot, np.random.default_rng(0))
    state = (torch.rand(2, B, 7), torch.rand(2, B, 7))
    slot.write_start(state, 12)
    for a, b in zip(tree_leaves(written), tree_leaves(tuple(slot.arrays[:7])), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(slot.row(1).reward, slot.rollout.reward[1:2])
    torch.testing.assert_close(slot.rollout.state, state)
    assert slot.rollout.version.tolist() == [12, 12]
    assert not any((leaf == MAGIC_FLOAT).any() for leaf in tree_leaves(slot.rollout.state))


def test_end_clears_only_the_last_answer():
    slot = Slot(spec(), T, B)
    slot.fill_magic()
    slot.end()
    assert slot.rollout.action[-1].eq(0).all()
    assert slot.rollout.extras["logits"][-1].eq(0).all()
    assert slot.rollout.extras["logits"][:-1].eq(MAGIC_FLOAT).all()
    assert slot.rollout.reward.eq(MAGIC_FLOAT).all()


def test_magic_fills_every_leaf():
    slot = Slot(spec(), T, B)
    slot.fill_magic()
    for leaf in tree_leaves(tuple(slot.arrays)):
        if leaf.dtype.kind == "f":
            assert (leaf == np.float32(MAGIC_FLOAT)).all()
        else:
            assert (leaf.view(np.uint8) == 0xAB).all()


def test_slots_of_a_block_do_not_overlap():
    block, slots = shared_slots(spec(), T, B, 3)
    for i, slot in enumerate(slots):
        for leaf in tree_leaves(tuple(slot.arrays)):
            leaf.view(np.uint8).fill(i)
    for i, slot in enumerate(slots_in(block, spec(), T, B, 3)):
        for leaf in tree_leaves(tuple(slot.arrays)):
            assert (leaf.view(np.uint8) == i).all()
            assert leaf.__array_interface__["data"][0] % 64 == 0


def test_rows_and_columns_are_views():
    rollout = Slot(spec(), T, B).rollout
    rollout.rows(slice(1, 3)).reward[0, 0] = 5
    rollout.columns(slice(1, 2)).state[0][0, 0, 0] = 6
    assert rollout.reward[1, 0] == 5
    assert rollout.state[0][0, 1, 0] == 6


def test_a_leaf_too_few_is_refused():
    slot = Slot(spec(), T, B)
    with pytest.raises(ValueError, match="zip"):
        slot.write_answer(0, [np.zeros(B)])


def test_columns_write_into_the_slot_and_nowhere_else():
    whole, apart = Slot(spec(), T, 4), Slot(spec(), T, 4)
    left, right = (whole.columns(slice(i, i + 2)) for i in (0, 2))
    assert (left.unroll_length, left.batch_size) == (T, 2)
    assert left.row(1).reward.shape == (1, 2)
    written = write(apart, np.random.default_rng(0))
    state = (torch.rand(2, 4, 7), torch.rand(2, 4, 7))
    for i, part in enumerate((left, right)):
        columns = slice(2 * i, 2 * i + 2)
        for t in range(T + 1):
            row = optree.tree_map(lambda x, t=t, c=columns: x[t, c], written)
            part.write_arrival(t, tree_leaves(row[:5]))
            part.write_answer(t, tree_leaves(row[5:]))
        part.write_start(tuple(x[:, columns] for x in state), 12 + i)
    for a, b in zip(tree_leaves(written), tree_leaves(tuple(whole.arrays[:7])), strict=True):
        np.testing.assert_array_equal(a, b)
    torch.testing.assert_close(whole.rollout.state, state)
    assert whole.rollout.version.tolist() == [12, 12, 13, 13]
    right.end()
    assert whole.rollout.action[-1, 2:].eq(0).all()
    np.testing.assert_array_equal(whole.arrays.action[-1, :2], written[5][-1, :2])
    left.fill_magic()
    assert whole.rollout.reward[:, :2].eq(MAGIC_FLOAT).all()
    np.testing.assert_array_equal(whole.arrays.reward[:, 2:], written[1][:, 2:])

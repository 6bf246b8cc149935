"""The queue: each column leaves once, in order, and slots come back when they may be reused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from torchbeast.data import EnvSpec, rollout_spec, zero_rows
from torchbeast.data.queue import RolloutQueue, check_divides
from torchbeast.data.slots import Slot

T = 2


def spec():
    env = EnvSpec(spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(2))
    state = (torch.zeros(1, 1, 4),)
    return rollout_spec(zero_rows(env, 1)._replace(extras={}, state=state))


def numbered(columns, start):
    """Returns a slot whose column i holds start + i everywhere."""
    slot = Slot(spec(), T, columns)
    for i in range(columns):
        column = slot.rollout.columns(slice(i, i + 1))
        for leaf in (column.obs, column.reward, column.state[0], column.version):
            leaf.fill_(start + i)
    return slot


@settings(max_examples=30, deadline=None)
@given(
    shape=st.sampled_from([(1, 1), (4, 4), (1, 4), (2, 4), (4, 2), (6, 1), (3, 6)]),
    puts=st.integers(1, 7),
)
def test_every_column_leaves_once_in_order(shape, puts):
    columns, batch_size = shape
    freed = []
    queue = RolloutQueue(spec(), T, columns, batch_size, freed.append)
    slots, seen = [], []
    for i in range(puts):
        slots.append(numbered(columns, i * columns))
        queue.put(slots[-1])
        assert queue.waiting() == (i + 1) * columns - len(seen)
        while queue.ready():
            batch = queue.get()
            assert batch.reward.shape == (T + 1, batch_size)
            for leaf in (batch.obs[0, :, 0], batch.reward[-1], batch.state[0][0, :, 0]):
                assert leaf.tolist() == batch.version.tolist()
            seen += batch.version.tolist()
            queue.feedback()
    assert seen == list(range(len(seen)))
    assert queue.waiting() == puts * columns - len(seen) < batch_size
    assert [id(slot) for slot in freed] == [id(slot) for slot in slots[: len(freed)]]
    assert len(freed) == len(seen) // columns


def test_a_slot_as_wide_as_a_batch_is_not_copied_and_is_kept_until_feedback():
    freed = []
    queue = RolloutQueue(spec(), T, 2, 2, freed.append)
    slot = numbered(2, 0)
    queue.put(slot)
    assert queue.get().reward.data_ptr() == slot.rollout.reward.data_ptr()
    assert freed == []
    queue.feedback()
    assert freed == [slot]


def test_a_wide_slot_is_kept_until_its_last_group_was_learned_from():
    freed = []
    queue = RolloutQueue(spec(), T, 4, 2, freed.append)
    queue.put(numbered(4, 0))
    queue.get()
    queue.feedback()
    assert freed == []
    queue.get()
    assert freed == []
    queue.feedback()
    assert len(freed) == 1


def test_empty_queue_and_widths_that_do_not_fit():
    queue = RolloutQueue(spec(), T, 1, 2, lambda slot: None)
    queue.put(numbered(1, 0))
    with pytest.raises(RuntimeError, match="expected 2 columns in the queue, got 1"):
        queue.get()
    with pytest.raises(ValueError, match=r"--batch_size"):
        check_divides(32, 5)

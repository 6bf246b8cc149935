"""Stacks of frames: stored once, given back whole, and never guessed."""

from __future__ import annotations

import numpy as np
import optree
import pytest
import torch
from data.replay.tape import FRAME, Tape, make_spec
from ops.golden import cases

from torchbeast.data import ArraySpec, Rollout, tree_leaves
from torchbeast.data.replay import FrameStack, Ring, stacked
from torchbeast.data.slots import Slot


def make_ring(stack, steps=1, width=1, capacity=64):
    return Ring(
        make_spec(stack),
        unroll_length=steps,
        lanes=1,
        width=width,
        capacity=capacity,
        frame_stack=stack,
    )


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        found = list(cases("frame_stack", metafunc.config.getoption("--golden")))
        metafunc.parametrize("case", found, ids=[case.name for case in found])


@pytest.mark.parametrize("padding", ["stack_zero_pad", "stack_repeat_pad"])
def test_golden_stacks_are_stored_and_given_back(case, padding):
    k, stacks = case.params["k"], np.array(case.expected[padding])
    ring = make_ring(k)
    slot = Slot(make_spec(k), 1, 1)
    for stack, first in zip(stacks, case.inputs["is_first"], strict=True):
        slot.arrays.obs[0, 0] = stack[:, None, None]
        slot.arrays.first[0] = bool(first)
        ring.append(0, slot)
    got = ring.rollout(np.arange(len(stacks))[:, None]).obs.tensor()
    expected = np.broadcast_to(stacks[:, None, :, None, None], got.shape)
    np.testing.assert_array_equal(got, expected)


def test_each_frame_is_stored_once():
    ring, whole = make_ring(4, capacity=1000), make_ring(2, capacity=1000)
    assert ring.arrays.obs.shape == (1001, *FRAME)
    assert ring.num_bytes == whole.num_bytes  # however long the stacks are


@pytest.mark.parametrize("where", [(3, 1, 0), (0, 0, 2), (4, 1, 1)])
def test_observations_that_are_no_stacks_are_refused_and_nothing_is_stored(where):
    tape = Tape(0, 5, 1, 2, 4)
    ring = make_ring(4, steps=5, width=2)
    ring.append(0, tape.rollout(0))
    before = {name: np.concatenate(parts) for name, parts in ring.in_use().items()}
    slot = tape.rollout(0)
    slot.arrays.obs[where][0, 0] += 1
    with pytest.raises(ValueError, match=r"environment [01].*--replay_whole_stacks"):
        ring.append(0, slot)
    after = {name: np.concatenate(parts) for name, parts in ring.in_use().items()}
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_a_lane_must_begin_with_an_episode():
    tape = Tape(0, 2, 1, 2, 4)
    slot = tape.rollout(0)
    slot.arrays.first[0, 1] = False
    with pytest.raises(ValueError, match=r"begin episodes.*\[True, False\]"):
        make_ring(4, steps=2, width=2).append(0, slot)


@pytest.mark.parametrize(
    "obs",
    [
        ArraySpec((3, 8), np.dtype(np.uint8)),
        ArraySpec((), np.dtype(np.uint8)),
        {"x": ArraySpec((4, 8), np.dtype(np.uint8))},
    ],
)
def test_a_space_that_cannot_be_stacks_is_refused(obs):
    spec = make_spec(4)._replace(obs=obs)
    with pytest.raises(ValueError, match=r"stacks of 4 frames.*--replay_whole_stacks"):
        Ring(spec, unroll_length=1, lanes=1, width=1, capacity=9, frame_stack=4)


def make_stack():
    frames = torch.arange(60, dtype=torch.uint8).view(10, 2, 3)
    return FrameStack(frames, torch.randint(10, (5, 3, 4)))


def test_a_frame_stack_looks_like_its_tensor():
    lazy = make_stack()
    whole = lazy.tensor()
    torch.testing.assert_close(whole, lazy.frames[lazy.index])
    assert lazy.shape == whole.shape == (5, 3, 4, 2, 3)
    assert (lazy.dtype, lazy.device, lazy.dim()) == (whole.dtype, whole.device, whole.dim())
    assert len(lazy) == len(whole)
    for key in (0, slice(1, None), (slice(None), slice(0, 2)), (0, 1), torch.tensor([2, 0])):
        torch.testing.assert_close(lazy[key].tensor(), whole[key])
        assert lazy[key].frames is lazy.frames
    for key in ((0, 0, 0), (0, 0, slice(0, 2))):
        with pytest.raises(IndexError, match="tensor"):
            lazy[key]


def test_it_is_a_leaf_of_a_rollout():
    lazy = make_stack()
    plain = torch.rand(5, 3)
    rollout = Rollout(lazy, plain, plain, plain > 0, plain, plain, {}, (), torch.arange(3))
    assert tree_leaves(tuple(rollout))[0] is lazy
    torch.testing.assert_close(rollout.rows(slice(1, 3)).obs.tensor(), lazy.tensor()[1:3])
    torch.testing.assert_close(rollout.columns(slice(1, 3)).obs.tensor(), lazy.tensor()[:, 1:3])
    assert rollout.to(torch.device("cpu")) is rollout
    made = stacked({"obs": rollout.obs, "other": (plain,)})
    torch.testing.assert_close(made["obs"], lazy.tensor())
    assert made["other"][0] is plain
    assert optree.tree_structure((lazy,)).num_leaves == 1


def test_each_frame_travels_once():
    lazy = make_stack()
    assert lazy.to("cpu") is lazy
    apart = lazy.apart()
    assert len(apart.frames) == len(lazy.index.unique())
    torch.testing.assert_close(apart.tensor(), lazy.tensor())
    meta = lazy.to("meta", non_blocking=True)
    assert meta.device.type == "meta"
    assert meta.shape == lazy.shape

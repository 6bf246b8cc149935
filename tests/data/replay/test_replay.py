"""The replay as a whole: pacing, feedback, saving, memory."""

from __future__ import annotations

import json
import mmap
import os
import shutil

import numpy as np
import pytest
import torch
from data.replay.tape import Tape
from gymnasium import spaces

from torchbeast.data import EnvSpec, rollout_spec, tree_leaves, zero_rows
from torchbeast.data.replay import (
    FrameStack,
    Pacing,
    Prioritized,
    Replay,
    ReplayMismatch,
    Ring,
    Sequences,
    Transitions,
    Uniform,
    memory,
    ring,
)

STEPS, WIDTH = 4, 2


def make(window, prioritized=True, stack=4, capacity=80, folder=None, pacing=None, **settings):
    tape = Tape(0, STEPS, 2, WIDTH, stack)
    store = Ring(
        tape.spec,
        unroll_length=STEPS,
        lanes=2,
        width=WIDTH,
        capacity=capacity,
        frame_stack=stack,
        folder=folder,
    )
    items = window.num_items(store)
    selection = Prioritized(items, 0.6) if prioritized else Uniform(items)
    pacing = pacing or Pacing(1e6, 0, 0)
    return tape, Replay(store, window, selection, pacing, 8, seed=3, **settings)


def test_learning_waits_for_acting():
    tape, replay = make(Transitions(1, 0.9), pacing=Pacing(2.0, 20, 8))
    learned = []
    for _ in range(10):
        replay.put(tape.rollout(0))
        batches = 0
        while replay.ready():
            replay.get()
            batches += 1
        learned.append(batches)
    # 8 steps a time: 20 first, then 2 transitions for each, in batches of 8, begun when due.
    assert learned == [0, 0, 2, 2, 2, 2, 2, 2, 2, 2]
    assert replay.steps == 80
    assert replay.metrics() == {"replay_size": 80.0 / 2, "replay_ratio": 16 * 8 / 60}


def test_acting_waits_for_learning():
    tape, replay = make(Transitions(1, 0.9), pacing=Pacing(0.5, 20, 8))
    puts = []
    for _ in range(10):
        count = 0
        while replay.allows(WIDTH):
            replay.put(tape.rollout(0))
            count += 1
        puts.append(count)
        assert not replay.allows(WIDTH)
        assert replay.ready()
        replay.get()
    # 28 = 20 + 8 ahead hold 3 rollouts of 8 steps; each batch of 8 pays for 16 more.
    assert puts == [3, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert replay.pacing.achieved() == pytest.approx(0.5, rel=0.2)


def test_acting_goes_on_until_there_is_something_to_draw():
    # The first sequence is complete long after min_size: waiting for it would be for ever.
    tape, replay = make(Sequences(4, 8), pacing=Pacing(1.0, 1, 8))
    for _ in range(4):
        assert not replay.ready()
        assert replay.allows(WIDTH)
        replay.put(tape.rollout(0))
    assert replay.ready()
    with pytest.raises(RuntimeError, match="ask ready"):
        make(Sequences(4, 8))[1].get()


def test_a_ratio_that_cannot_be_is_refused():
    for ratio in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="--replay_ratio"):
            Pacing(ratio, 1, 1)


def test_slots_are_handed_back_and_of_the_right_shape():
    freed = []
    tape, replay = make(Transitions(1, 0.9), on_free=freed.append)
    slot = tape.rollout(1)
    replay.put(slot, 1)
    assert freed == [slot]
    assert replay.waiting() == 0
    with pytest.raises(ValueError, match="4 steps of 2 environments, got 3 steps of 2"):
        replay.put(Tape(0, 3, 2, 2, 4).rollout(0))


def test_feedback_reaches_the_windows_of_the_last_batch_only_while_they_are_there():
    tape, replay = make(Transitions(1, 0.9), capacity=32)
    for _ in range(2):
        for lane in range(2):
            replay.put(tape.rollout(lane), lane)
    replay.get()
    items = replay._drawn[0]
    replay.feedback(torch.full((8,), 5.0))
    np.testing.assert_allclose(replay.selection.tree.get(items), (5 + 1e-6) ** 0.6)
    replay.feedback(torch.full((8,), 7.0))  # of no batch
    np.testing.assert_allclose(replay.selection.tree.get(items), (5 + 1e-6) ** 0.6)
    replay.get()
    with pytest.raises(ValueError, match=r"priorities \[8\] of the last batch, got \(7,\)"):
        replay.feedback(torch.ones(7))
    replay.get()
    before = replay.selection.tree.total
    for _ in range(2):
        for lane in range(2):
            replay.put(tape.rollout(lane), lane)
    weights = replay.selection.tree.get(np.arange(replay.ring.num_rows))
    replay.feedback(torch.full((8,), 1e6))
    np.testing.assert_array_equal(
        replay.selection.tree.get(np.arange(replay.ring.num_rows)), weights
    )
    assert before > 0


@pytest.mark.parametrize("window", [Transitions(2, 0.9), Sequences(1, 4)])
def test_new_windows_get_the_priorities_that_acting_gives(window):
    seen = []

    def priority(windows):
        assert windows.obs == ()
        seen.append(windows.reward.abs().sum(0))
        return seen[-1]

    tape, replay = make(window, initial_priority=priority)
    for _ in range(4):
        replay.put(tape.rollout(0))
    items = replay.selection.state()[0]["open"]
    expected = replay.window.cut(replay.ring, items).reward.abs().sum(0).double()
    np.testing.assert_allclose(replay.selection.tree.get(items), (expected + 1e-6) ** 0.6)
    assert sum(map(len, seen)) == len(items) > 3
    tape, replay = make(window, initial_priority=lambda windows: None)
    for _ in range(4):
        replay.put(tape.rollout(0))
    assert (replay.selection.tree.get(items) == 1).all()


def leaves(batch):
    obs = batch.obs.tensor() if isinstance(batch.obs, FrameStack) else batch.obs
    return tree_leaves(tuple(batch._replace(obs=obs)))


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("window", [Transitions(3, 0.9), Sequences(2, 5)])
@pytest.mark.parametrize("puts", [0, 5, 30])
def test_a_restored_replay_goes_on_as_the_saved_one(tmp_path, window, prioritized, puts):
    tape, replay = make(window, prioritized)
    for i in range(puts):
        replay.put(tape.rollout(i % 2), i % 2)
        if replay.ready():
            replay.get()
            replay.feedback(5 * tape.rng.random(8))
    folder = tmp_path / "deep" / "replay"
    replay.save(folder)
    replay.save(folder)  # in place of the first
    assert sorted(os.listdir(folder.parent)) == ["replay"]
    _, other = make(window, prioritized)
    stale, _ = make(window, prioritized)
    for _ in range(7):
        other.put(stale.rollout(0))  # what it had is forgotten
    other.restore(folder)
    assert other.steps == replay.steps
    assert other.metrics() == replay.metrics()
    for _ in range(30):
        slot = tape.rollout(0)
        replay.put(slot)
        other.put(slot)
        if replay.ready():
            assert other.ready()
            for a, b in zip(leaves(replay.get()), leaves(other.get()), strict=True):
                np.testing.assert_array_equal(a, b)
            priority = tape.rng.random(8)
            replay.feedback(priority)
            other.feedback(priority)


def test_only_what_is_in_use_is_saved(tmp_path):
    tape, replay = make(Transitions(1, 0.9), capacity=100_000)
    replay.put(tape.rollout(0))
    replay.save(tmp_path / "replay")
    size = sum(path.stat().st_size for path in (tmp_path / "replay").iterdir())
    assert size < 12_000 < replay.ring.num_bytes


def test_a_damaged_or_foreign_replay_is_refused(tmp_path):
    tape, replay = make(Transitions(1, 0.9))
    for _ in range(5):
        replay.put(tape.rollout(0))
    folder = tmp_path / "replay"
    replay.save(folder)
    names = sorted(os.listdir(folder))
    assert len(names) > 10
    for name in names:
        broken = tmp_path / "broken"
        shutil.copytree(folder, broken)
        data = bytearray((broken / name).read_bytes())
        data[-1] ^= 4
        (broken / name).write_bytes(data)
        with pytest.raises(ReplayMismatch, match="broken"):
            replay.restore(broken)
        (broken / name).unlink()
        with pytest.raises(ReplayMismatch, match="broken"):
            replay.restore(broken)
        shutil.rmtree(broken)
    with pytest.raises(ReplayMismatch, match="with length 40, got 20"):
        make(Transitions(1, 0.9), capacity=160)[1].restore(folder)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "MANIFEST.json").write_text(json.dumps(manifest | {"format_version": 2}))
    with pytest.raises(ReplayMismatch, match="format 1, got 2"):
        replay.restore(folder)


def test_a_full_disk_leaves_what_was_saved_before(tmp_path, monkeypatch):
    tape, replay = make(Transitions(1, 0.9))
    replay.put(tape.rollout(0))
    replay.save(tmp_path / "replay")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    replay.put(tape.rollout(0))
    with pytest.raises(OSError, match="No space left"):
        replay.save(tmp_path / "replay")
    assert os.listdir(tmp_path) == ["replay"]
    replay.restore(tmp_path / "replay")
    assert replay.steps == 8


def test_a_replay_on_disk_leaves_nothing_behind(tmp_path):
    window = Transitions(1, 0.9)
    (tape, replay), (_, same) = make(window), make(window, folder=tmp_path)
    assert os.listdir(tmp_path) == []
    for _ in range(12):
        slot = tape.rollout(0)
        replay.put(slot)
        same.put(slot)
    for a, b in zip(leaves(replay.get()), leaves(same.get()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_little_memory_or_disk_is_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 5_000_000_000)
    with pytest.raises(MemoryError, match=r"expected 6.00 GB .* 5.00 GB left; lower --replay_size"):
        memory.private_memory(6_000_000_000)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"6.00 GB in .*No space left.*--replay_dir"):
        memory.file_memory(6_000_000_000, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_million_atari_transitions_take_little_more_than_their_frames(monkeypatch):
    def untouched(num_bytes):
        return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    monkeypatch.setattr(ring, "private_memory", untouched)
    spec = EnvSpec(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(18), 4)
    store = Ring(
        rollout_spec(zero_rows(spec, 1)),
        unroll_length=16,
        lanes=1,
        width=16,
        capacity=1_000_000,
        frame_stack=4,
    )
    selection = Prioritized(store.num_rows, 0.6)
    tree = selection.tree
    sums = sum(x.nbytes for x in [*tree._groups, tree._top])
    assert store.num_rows >= 1_000_000
    assert store.num_bytes + sums + selection._is_open.nbytes < 7.3e9

"""A replay gives back what was put in, compared with a plain list of all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from data.replay.tape import Tape, place

from torchbeast.data import tree_leaves
from torchbeast.data.replay import (
    FrameStack,
    Pacing,
    Prioritized,
    Replay,
    Ring,
    Sequences,
    Transitions,
    Uniform,
)

GAMMA = 0.9


def make(tape: Tape, window: Any, capacity: int, prioritized: bool, batch_size: int) -> Replay:
    stack, lanes = tape.stack, len(tape.rows)
    ring = Ring(
        tape.spec,
        unroll_length=tape.steps,
        lanes=lanes,
        width=tape.width,
        capacity=capacity,
        frame_stack=stack,
    )
    items = window.num_items(ring)
    selection = Prioritized(items, 0.7) if prioritized else Uniform(items)
    return Replay(ring, window, selection, Pacing(1e6, 0, 0), batch_size, seed=1)


def open_items(replay: Replay) -> set[int]:
    return set(replay.selection.state()[0]["open"].tolist())


def drawable(tape: Tape, ring: Ring, span: int) -> set[tuple[int, int, int]]:
    """Returns lane, row and environment of all starts whose rows, and stacks, are all there."""
    found = set()
    for lane, rows in enumerate(tape.rows):
        oldest = max(0, len(rows) - ring.length + tape.stack - 1)
        for a in range(oldest, len(rows) - span + 1):
            found |= {(lane, a, w) for w in range(tape.width)}
    return found


def same_row(tape: Tape, batch: Any, t: int, b: int, row: dict[str, Any]) -> None:
    stack = np.stack(row["frames"])
    if tape.stack == 1:
        np.testing.assert_array_equal(batch.obs["x"][t, b], stack)
        np.testing.assert_array_equal(batch.obs["y"][t, b], row["y"])
    else:
        np.testing.assert_array_equal(batch.obs[t, b], stack)
    assert batch.first[t, b] == row["first"]
    assert batch.prev_action[t, b] == row["prev_action"]
    assert batch.action[t, b] == row["action"]
    np.testing.assert_array_equal(batch.extras["q"][t, b], row["extras"]["q"])


def whole(batch: Any) -> Any:
    return batch._replace(obs=batch.obs.tensor()) if isinstance(batch.obs, FrameStack) else batch


def follow(rows: list[Any], a: int, w: int, n: int, clip: bool) -> tuple[float, float, int]:
    """Returns reward, discount and length of the window at row a, one step at a time."""
    reward, weight, m = 0.0, 1.0, 0
    while True:
        m += 1
        came = rows[a + m][w]["reward"]
        reward += weight * (min(1.0, max(-1.0, came)) if clip else came)
        terminal = rows[a + m][w]["discount"] == 0
        if m == n or terminal or rows[a + m + 1][w]["first"]:
            return reward, 0.0 if terminal else weight, m
        weight *= GAMMA


SHAPES = [  # unroll_length, lanes, width, capacity
    (1, 1, 1, 30),
    (4, 1, 3, 90),
    (5, 3, 2, 160),
    (16, 2, 1, 40),
]


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
@pytest.mark.parametrize("stack", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_transitions_are_those_that_were_put_in(shape, stack, n_step):
    steps, lanes, width, capacity = shape
    tape = Tape(n_step * 100 + stack, steps, lanes, width, stack)
    clip = stack == 2
    window = Transitions(n_step, GAMMA, clip)
    replay = make(tape, window, capacity, n_step == 3, 16)
    ring, compared = replay.ring, 0
    for turn in range(max(12, 5 * ring.length * lanes // steps)):
        lane = int(tape.rng.integers(lanes))
        replay.put(tape.rollout(lane, lost=tape.rng.random() < 0.1), lane)
        expected = drawable(tape, ring, n_step + 1)
        real = {x for x in expected if not tape.rows[x[0]][x[1] + 1][x[2]]["first"]}
        assert {place(ring, item) for item in open_items(replay)} == real
        if turn % 3 or not replay.ready():
            continue
        batch = whole(replay.get())
        assert batch.reward.shape == (2, 16)
        assert batch.state == ()
        items = replay._drawn[0].tolist()
        for b, (lane_b, a, w) in enumerate(place(ring, item) for item in items):
            rows = tape.rows[lane_b]
            reward, discount, m = follow(rows, a, w, n_step, clip)
            same_row(tape, batch, 0, b, rows[a][w])
            same_row(tape, batch, 1, b, rows[a + m][w])
            assert batch.reward[0, b] == np.float32(rows[a][w]["reward"])
            assert batch.discount[0, b] == rows[a][w]["discount"]
            np.testing.assert_allclose(batch.reward[1, b], np.float32(reward), rtol=2e-7)
            np.testing.assert_allclose(batch.discount[1, b], np.float32(discount), rtol=2e-7)
            assert not batch.first[1, b]
            assert batch.version[b] == tape.starts[lane_b][a // steps][1]
            assert batch.extras["oversampling"].shape == (2, 16)
            compared += 1
        replay.feedback(tape.rng.random(16))
    assert compared >= 64


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1, 30), (4, 1, 3, 150), (5, 3, 2, 200), (8, 2, 2, 100)])
def test_sequences_are_those_that_were_put_in(shape, stack, prioritized):
    steps, lanes, width, capacity = shape
    tape = Tape(stack, steps, lanes, width, stack)
    window = Sequences(3, 6)
    replay = make(tape, window, capacity, prioritized, 8)
    ring, compared = replay.ring, 0
    for _ in range(max(12, 6 * ring.length * lanes // steps)):
        lane = int(tape.rng.integers(lanes))
        replay.put(tape.rollout(lane, lost=tape.rng.random() < 0.1), lane)
        starts = {x for x in drawable(tape, ring, 10) if x[1] % steps == 0}
        items = np.array(sorted(open_items(replay)), int)
        found = {place(ring, address) for address in window.place(ring, items).tolist()}
        assert found == starts
        if not replay.ready():
            continue
        batch = whole(replay.get())
        assert batch.reward.shape == (10, 8)
        places = window.place(ring, replay._drawn[0]).tolist()
        for b, (lane_b, a, w) in enumerate(place(ring, address) for address in places):
            for t in range(10):
                row = tape.rows[lane_b][a + t][w]
                same_row(tape, batch, t, b, row)
                assert batch.reward[t, b] == np.float32(row["reward"])
                assert batch.discount[t, b] == row["discount"]
            state, version = tape.starts[lane_b][a // steps]
            for got, stored in zip(batch.state, state, strict=True):
                np.testing.assert_array_equal(got[:, b], stored[:, w])
            assert batch.version[b] == version
            compared += 1
        replay.feedback(tape.rng.random(8))
    assert compared >= 64


def test_what_comes_after_an_episode_changes_no_window_before():
    for stack in (1, 4):
        tape = Tape(5, 4, 1, 1, stack)
        slots = [tape.rollout(0) for _ in range(8)]
        begins = [t for t, rows in enumerate(tape.rows[0]) if rows[0]["first"] and t > 6]
        end = begins[0]
        cuts = []
        for changed in (False, True):
            if changed:
                for i, slot in enumerate(slots):
                    after = max(0, end - 4 * i)
                    for leaf in tree_leaves(slot.arrays.obs):
                        leaf[after:] = -leaf[after:]  # stacks stay stacks: 0 stays 0
                    for name in ("reward", "discount", "action", "prev_action"):
                        getattr(slot.arrays, name)[after:] = 6
                    slot.arrays.extras["q"][after:] = 6
            replay = make(tape, Transitions(5, GAMMA), 40, False, 4)
            for slot in slots:
                replay.put(slot)
            items = np.array(sorted(i for i in open_items(replay) if i < end))
            assert len(items) > 4
            cuts.append(whole(replay.window.cut(replay.ring, items)))
        for name in ("reward", "discount", "action", "first", "prev_action"):
            before, after = (getattr(cut, name) for cut in cuts)
            np.testing.assert_array_equal(before, after)
        for before, after in zip(
            *(tree_leaves((cut.obs, cut.extras)) for cut in cuts), strict=True
        ):
            np.testing.assert_array_equal(before, after)

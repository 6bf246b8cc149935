"""Rollouts of made-up environments, and a plain list of all that they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from torchbeast.data import EnvSpec, Rollout, rollout_spec, zero_rows
from torchbeast.data.replay import Ring
from torchbeast.data.slots import Slot

FRAME = (2, 3)


def make_spec(stack: int) -> Rollout:
    box = spaces.Box(0, 255, (stack, *FRAME), np.uint8)
    obs = spaces.Dict({"x": box, "y": spaces.Box(-9, 9, (2,))}) if stack == 1 else box
    row = zero_rows(EnvSpec(obs, spaces.Discrete(7), stack), 1)
    state = (torch.zeros(2, 1, 3), torch.zeros(1, 1, 2))
    return rollout_spec(row._replace(extras={"q": torch.zeros(1, 1, 4)}, state=state))


class Tape:
    """Makes rollouts of W environments, lane by lane, and remembers every row.

    Episodes end and are cut off, lives are lost, and so are actors: their next rollout begins anew.
    Each episode pads its first stack with zeros or with its first frame.
    """

    def __init__(self, seed: int, steps: int, lanes: int, width: int, stack: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.steps, self.width, self.stack = steps, width, stack
        self.spec = make_spec(stack)
        self.rows: list[list[list[dict[str, Any]]]] = [[] for _ in range(lanes)]  # [lane][row][env]
        self.starts: list[list[tuple[list[Any], int]]] = [[] for _ in range(lanes)]
        self._next: list[list[dict[str, Any]]] = [self._begin() for _ in range(lanes)]
        self._version = 0

    def rollout(self, lane: int, lost: bool = False) -> Slot:
        """Returns the next rollout of a lane; ``lost``: by an actor that begins anew."""
        slot = Slot(self.spec, self.steps, self.width)
        if lost:
            self._next[lane] = self._begin()
        for t in range(self.steps + 1):
            rows = self._next[lane]
            for w, row in enumerate(rows):
                row["action"] = self.rng.integers(7)
                row["extras"] = {"q": self.rng.random(4, np.float32)}
                write(slot, t, w, row)
            if t < self.steps:
                self.rows[lane].append(rows)
                self._next[lane] = [self._after(row) for row in rows]
        slot.end()
        state = [self.rng.random((n, self.width, h), np.float32) for n, h in ((2, 3), (1, 2))]
        self._version += 1
        slot.write_start(tuple(map(torch.from_numpy, state)), self._version)
        self.starts[lane].append((state, self._version))
        return slot

    def _begin(self) -> list[dict[str, Any]]:
        return [self._first() for _ in range(self.width)]

    def _first(self) -> dict[str, Any]:
        frame = self._frame()
        pad = frame if self.rng.random() < 0.5 else np.zeros_like(frame)
        return {
            "frames": [pad] * (self.stack - 1) + [frame],
            "y": self.rng.random(2, np.float32),
            "reward": 0.0,
            "discount": 1.0,
            "first": True,
            "prev_action": 0,
            "over": self.rng.random() < 0.1,
        }

    def _after(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["over"]:
            return self._first()
        chance = self.rng.random()
        return {
            "frames": [*row["frames"][1:], self._frame()],
            "y": self.rng.random(2, np.float32),
            "reward": float(np.float32(self.rng.normal(0, 2))),
            "discount": 0.0 if chance < 0.15 else 1.0,  # below 0.05 a life only
            "first": False,
            "prev_action": row["action"],
            "over": 0.05 <= chance < 0.25,
        }

    def _frame(self) -> Any:
        return self.rng.integers(0, 256, FRAME, np.uint8)


def write(slot: Slot, t: int, w: int, row: dict[str, Any]) -> None:
    """Writes one row of one environment into a slot."""
    arrays: Any = slot.arrays
    stack = np.stack(row["frames"])
    if isinstance(arrays.obs, dict):
        arrays.obs["x"][t, w], arrays.obs["y"][t, w] = stack, row["y"]
    else:
        arrays.obs[t, w] = stack
    for name in ("reward", "discount", "first", "prev_action", "action"):
        getattr(arrays, name)[t, w] = row[name]
    arrays.extras["q"][t, w] = row["extras"]["q"]


def place(ring: Ring, address: int) -> tuple[int, int, int]:
    """Returns lane, newest row and environment that an address stands for, by search."""
    lane, rest = divmod(address, ring.length * ring.width)
    position, column = divmod(rest, ring.width)
    row = int(ring.count[lane]) - 1
    while row % ring.length != position:
        row -= 1
    return lane, row, column

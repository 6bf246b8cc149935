"""The order of acting, learning and publishing, written on a tape; and what rollouts hold."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from torchbeast.algorithms.base import Algorithm, Once, Update
from torchbeast.data import EnvSpec, Rollout, Tree
from torchbeast.envs.vector import Step, VectorEnv
from torchbeast.loops.learner import Learner
from torchbeast.loops.weights import LocalWeights
from torchbeast.runners.local import LocalSource
from torchbeast.runners.source import Interrupted

SPEC = EnvSpec(spaces.Box(0, 1e6, (), np.float32), spaces.Discrete(1000))
T = 3


class TapeEnv(VectorEnv):
    """Shows how many steps there were; episodes of 4 steps, which terminate."""

    def __init__(self, tape: list[Any], num_envs: int = 1) -> None:
        super().__init__(SPEC, num_envs)
        self.tape = tape
        self.count = 0

    def _obs(self) -> Any:
        return np.full(self.num_envs, self.count, np.float32)

    def _reset(self) -> Tree:
        self.tape.append("reset")
        return self._obs()

    def _send(self, action: Tree) -> None:
        self.tape.append(("send", int(action[0])))

    def _recv(self) -> Step:
        self.count += 1
        self.tape.append("recv")
        none = np.zeros(self.num_envs, bool)
        ends = none | (self.count % 5 == 4)
        return Step(self._obs(), np.full(self.num_envs, float(self.count)), ends, none)

    def _snapshot(self) -> dict[str, Any]:
        return {"count": self.count}

    def _restore(self, state: dict[str, Any]) -> None:
        self.count = state["count"]

    def close(self) -> None:
        pass


class TapeAlgorithm(Algorithm):
    """Its action is 100 times the weight plus the observation; an update adds 1 to the weight."""

    def __init__(self, tape: list[Any], batch_size: int = 1) -> None:
        self.spec = SPEC
        self.needs = Once(T, batch_size, None)
        self.model = nn.Linear(1, 1)
        nn.init.zeros_(self.model.weight)
        self.tape = tape

    def initial_state(self, batch_size: int) -> Tree:
        return (torch.zeros(1, batch_size, 1),)

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        weight = model.weight.detach().round().reshape(())
        self.tape.append(("act", int(rows.obs[0, 0])))
        (count,) = state
        count = torch.where(rows.first[..., None], 0.0, count) + 1
        return (
            (100 * weight + rows.obs).long(),
            {"weight": weight.expand(rows.first.shape)},
            (count,),
        )

    def update(self, batch: Rollout, steps: int) -> Update:
        self.tape.append(("learn", steps, batch.version.tolist()))
        with torch.no_grad():
            self.model.weight += 1
        return Update({"loss": batch.reward.sum()})


class TapeWeights(LocalWeights):
    def __init__(self, tape: list[Any]) -> None:
        super().__init__()
        self.tape = tape

    def publish(self, model: nn.Module, version: int) -> None:
        self.tape.append(("publish", version))
        super().publish(model, version)


def make(num_envs: int = 1, batch_size: int = 1, on_row: Any = None) -> Any:
    tape: list[Any] = []
    algorithm, weights = TapeAlgorithm(tape, batch_size), TapeWeights(tape)
    source = LocalSource(algorithm, TapeEnv(tape, num_envs), weights, on_row)
    tape.clear()
    return tape, source, Learner(algorithm, source.buffer, weights)


def test_acting_learning_publishing_take_turns() -> None:
    tape, source, learner = make()
    learner.resume(0, 0)
    for _ in range(2):
        source.fill()
        learner.step()
    assert tape == [
        ("publish", 0),
        "reset",
        *[("act", 0), ("send", 0), "recv"],
        *[("act", 1), ("send", 1), "recv"],
        *[("act", 2), ("send", 2), "recv"],
        ("learn", 0, [0]),
        ("publish", 1),
        # The last row of the first rollout is answered now, by the new weights.
        *[("act", 3), ("send", 103), "recv"],
        *[("act", 4), ("send", 104), "recv"],
        *[("act", 5), ("send", 105), "recv"],
        ("learn", T, [1]),
        ("publish", 2),
    ]
    assert (learner.steps, learner.version) == (2 * T, 2)


def test_a_wide_rollout_is_learned_from_in_groups() -> None:
    tape, source, learner = make(num_envs=4, batch_size=2)
    for _ in range(4):
        source.fill()
        learner.step()
    learned = [x for x in tape if x[0] in ("learn", "publish")]
    assert [x[2] for x in learned if x[0] == "learn"] == [[0, 0], [0, 0], [2, 2], [2, 2]]
    assert learner.steps == 4 * 2 * T
    assert learner.metrics()["policy_lag"] == 0.5


def test_rows_of_a_rollout() -> None:
    _, source, learner = make()
    batches = []
    for _ in range(4):
        source.fill()
        slot = source.buffer._filled[0]
        batches.append(Rollout(*(x.clone() if isinstance(x, Tensor) else x for x in slot.rollout)))
        batches[-1] = batches[-1]._replace(state=slot.rollout.state[0].clone())
        learner.step()
    rows = [batch.rows(slice(0, T)) for batch in batches]
    obs = torch.cat([r.obs for r in rows])[:, 0]
    first = torch.cat([r.first for r in rows])[:, 0]
    assert obs.tolist() == list(range(4 * T))
    assert first.tolist() == [i % 5 == 0 for i in range(4 * T)]
    reward = torch.cat([r.reward for r in rows])[:, 0]
    assert reward.tolist() == [0.0 if i % 5 == 0 else float(i) for i in range(4 * T)]
    discount = torch.cat([r.discount for r in rows])[:, 0]
    assert discount.tolist() == [0.0 if i % 5 == 4 else 1.0 for i in range(4 * T)]
    action = torch.cat([r.action for r in rows])[:, 0]
    assert action.tolist() == [100 * (i // T) + i for i in range(4 * T)]
    previous = torch.cat([r.prev_action for r in rows])[:, 0]
    assert previous[1:].tolist() == torch.where(first[1:], 0, action[:-1]).tolist()
    for k, (batch, after) in enumerate(itertools.pairwise(batches)):
        for field in ("obs", "reward", "discount", "first", "prev_action"):
            assert torch.equal(getattr(batch, field)[T], getattr(after, field)[0]), field
        assert batch.version.tolist() == [k]
        assert batch.action[T].item() == 0
    # Rows of the episode before row 0; row 0 of the third rollout is row 1 of its episode.
    assert [batch.state.item() for batch in batches] == [0, 3, 1, 4]


def test_acting_goes_on_from_a_snapshot() -> None:
    tape, source, learner = make()
    source.fill()
    assert source.snapshot() is None  # a rollout waits, which a snapshot does not hold
    learner.step()
    saved = source.snapshot()
    tape.clear()
    source.fill()
    expected, whole = list(tape), source.buffer._filled[0].rollout
    tape, other, _ = make()
    with torch.no_grad():
        other.actor.policy._model.weight += 1
    other.restore(saved)
    tape.clear()
    other.fill()
    rollout = other.buffer._filled[0].rollout
    assert tape == expected
    for field in ("obs", "reward", "first", "prev_action", "action"):
        assert torch.equal(getattr(rollout, field), getattr(whole, field)), field
    assert torch.equal(rollout.state[0], whole.state[0])


def test_an_interrupted_rollout_is_not_learned_from() -> None:
    calls = iter([False, True] + 9 * [False])

    def on_row() -> None:
        if next(calls):
            raise Interrupted

    _, source, learner = make(on_row=on_row)
    with pytest.raises(Interrupted):
        source.fill()
    assert source.buffer.waiting() == 0
    source.fill()  # its slot is free again
    assert source.buffer._filled[0].rollout.obs[:, 0].tolist() == [1, 2, 3, 4]
    learner.step()

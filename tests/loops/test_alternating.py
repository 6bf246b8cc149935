"""Groups of environments that take turns: who does what when, and that rollouts stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from torchbeast.algorithms.base import Algorithm, Once, Update
from torchbeast.data import EnvSpec, Rollout, Tree, tree_leaves, tree_map
from torchbeast.data.slots import Slot
from torchbeast.envs.vector import EnvError, Step, VectorEnv
from torchbeast.loops.actor import Actor
from torchbeast.loops.alternating import Alternating, EnvGroups, in_groups, make_actor
from torchbeast.loops.learner import Learner
from torchbeast.loops.policy import Policy, places
from torchbeast.loops.weights import LocalWeights
from torchbeast.runners.local import LocalSource
from torchbeast.runners.source import Interrupted

SPEC = EnvSpec(spaces.Box(-1e9, 1e9, (2,), np.float64), spaces.Discrete(10_000))
T = 3
B = 4


class StreamEnv(VectorEnv):
    """Environment ``id`` shows its number of steps and a sum of what it was answered.

    Its episodes have 3 + id steps. Steps that were begun and not taken in are not forgiven.
    """

    def __init__(self, ids: list[int], tape: list[Any] | None = None, breaks_at: int = -1) -> None:
        super().__init__(SPEC, len(ids), f"stream {ids}")
        self.ids = np.array(ids)
        self.tape = [] if tape is None else tape
        self.breaks_at = breaks_at
        self.count = 0
        self.sum = 1000.0 * self.ids
        self.pending: Any = None
        self.closed = False

    def _note(self, what: str) -> None:
        self.tape.append((what, int(self.ids[0])))

    def _obs(self) -> Tree:
        return np.stack([np.full(self.num_envs, float(self.count)), self.sum], 1)

    def _reset(self) -> Tree:
        return self._obs()

    def _send(self, action: Tree) -> None:
        assert self.pending is None, "sent twice"
        self._note("send")
        self.pending = np.array(action)

    def _recv(self) -> Step:
        assert self.pending is not None, "nothing was sent"
        self._note("recv")
        if self.count == self.breaks_at:
            raise EnvError("the ball left the universe")
        self.sum = (31 * self.sum + self.pending) % 1009
        self.pending = None
        self.count += 1
        ends = self.count % (4 + self.ids) == 3 + self.ids
        odd = self.ids % 2 == 1
        return Step(self._obs(), self.sum.copy(), ends & odd, ends & ~odd)

    def _snapshot(self) -> dict[str, Any]:
        return {"count": self.count, "sum": self.sum.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        self.count, self.sum = state["count"], np.array(state["sum"])

    def close(self) -> None:
        self.closed = True


class StreamAlgorithm(Algorithm):
    """Its answer depends on weight, observation and state; the state on the whole episode."""

    def __init__(self, tape: list[Any] | None = None) -> None:
        self.spec = SPEC
        self.needs = Once(T, B, None)
        self.model = nn.Linear(1, 1)
        nn.init.zeros_(self.model.weight)
        self.tape = [] if tape is None else tape

    def initial_state(self, batch_size: int) -> Tree:
        return (torch.zeros(2, batch_size, 1, dtype=torch.float64),)

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        self.tape.append(("answer", int(rows.obs[0, 0, 1]) // 1000))
        weight = model.weight.detach().reshape(())
        (seen,) = state
        seen = torch.where(rows.first[..., None], 0.0, seen)
        seen = (7 * seen + rows.obs[..., :1] + torch.tensor([[[1.0]], [[2.0]]])) % 101
        action = (rows.obs[..., 1] + 10 * weight + seen[:1, :, 0]).long() % 997
        return action, {"weight": weight.expand(rows.first.shape)}, (seen,)

    def update(self, batch: Rollout, steps: int) -> Update:
        with torch.no_grad():
            self.model.weight += 1
        return Update({"loss": batch.reward.sum()})


def groups_of(count: int, **kwargs: Any) -> VectorEnv:
    """Returns environments 0 to B - 1 in ``count`` groups."""
    each = B // count
    groups = [StreamEnv(list(range(i * each, (i + 1) * each)), **kwargs) for i in range(count)]
    return groups[0] if count == 1 else EnvGroups(groups)


def make(env: VectorEnv, on_row: Any = None, tape: list[Any] | None = None) -> Any:
    algorithm, weights = StreamAlgorithm(tape), LocalWeights()
    source = LocalSource(algorithm, env, weights, on_row)
    return source, Learner(algorithm, source.buffer, weights)


def take(source: Any, learner: Any) -> Rollout:
    """Returns a copy of the next rollout after learning from it."""
    source.fill()
    rollout = Rollout(*tree_map(torch.clone, tuple(source.buffer._filled[0].rollout)))
    learner.step()
    return rollout


def same(a: Rollout, b: Rollout) -> bool:
    return all(map(torch.equal, tree_leaves(tuple(a)), tree_leaves(tuple(b))))


@pytest.mark.parametrize("count", [2, 4])
def test_rollouts_are_those_of_one_group(count: int) -> None:
    whole, parts = make(groups_of(1)), make(groups_of(count))
    episodes: list[Any] = [[], []]
    for update in range(12):
        a, b = take(*whole), take(*parts)
        assert same(a, b)
        assert b.version.tolist() == [update] * B
        assert (b.action[-1] == 0).all()
        assert b.obs[:, :, 0].tolist() == [[float(T * update + t)] * B for t in range(T + 1)]
        for found, (source, _) in zip(episodes, (whole, parts), strict=True):
            found += sorted(source.episodes())
    assert {e.env for e in episodes[0]} == set(range(B))
    assert episodes[0] == episodes[1]


def test_one_group_is_answered_while_the_other_steps() -> None:
    tape: list[Any] = []
    env = EnvGroups([StreamEnv([0], tape), StreamEnv([1], tape)])
    algorithm = StreamAlgorithm()
    actor = make_actor(env, Policy(algorithm, algorithm.model, LocalWeights(), 2, places(2)))
    slot = Slot(algorithm.rollout_spec(), T, 2)
    algorithm.act, act = lambda *a: tape.append("answer") or act(*a), algorithm.act  # type: ignore[func-returns-value, method-assign]
    actor.collect(slot)
    assert tape == [
        *["answer", ("send", 0)],
        *["answer", ("send", 1)],
        *[("recv", 0), "answer", ("send", 0)],
        *[("recv", 1), "answer", ("send", 1)],
        *[("recv", 0), "answer", ("send", 0)],
        *[("recv", 1), "answer", ("send", 1)],
        *[("recv", 0), ("recv", 1)],
    ]


def test_newer_weights_come_in_for_all_groups_at_once() -> None:
    class NewEveryTime(LocalWeights):
        def fetch(self, model: nn.Module) -> int:
            self._version += 1
            return self._version

    algorithm = StreamAlgorithm()
    actor = make_actor(
        groups_of(2), Policy(algorithm, algorithm.model, NewEveryTime(), B, places(B))
    )
    slot = Slot(algorithm.rollout_spec(), T, B)
    for version in (1, 2):
        actor.collect(slot)
        assert slot.rollout.version.tolist() == [version] * B


@pytest.mark.parametrize("at", [1, 2, 3, 2 * T, 2 * T + 1, 2 * T + 2])
def test_an_interrupted_rollout_leaves_all_groups_ready_to_go_on(at: int) -> None:
    calls = iter(range(1, 1000))

    def on_row() -> None:
        if next(calls) == at:
            raise Interrupted

    def next_rollout(source: Any) -> Rollout:
        source.fill()
        rollout = Rollout(*tree_map(torch.clone, tuple(source.buffer.get())))
        source.buffer.feedback()
        return rollout

    tape: list[Any] = []
    reference, source = make(groups_of(1))[0], make(groups_of(2, tape=tape), on_row)[0]
    rollouts = [next_rollout(reference) for _ in range(4)]
    obs, action = (torch.cat([getattr(r, x)[:T] for r in rollouts]) for x in ("obs", "action"))
    for _ in range((at - 1) // (2 * T)):
        next_rollout(source)
    with pytest.raises(Interrupted):
        source.fill()
    assert source.buffer.waiting() == 0
    assert sum(what == "send" for what, _ in tape) == sum(what == "recv" for what, _ in tape)
    rollout = next_rollout(source)
    # What groups 0 and 1 had answered; each goes on there, as if nothing had happened.
    for column, row in enumerate([at // 2] * 2 + [(at - 1) // 2] * 2):
        assert torch.equal(rollout.obs[:T, column], obs[row : row + T, column])
        assert torch.equal(rollout.action[:T, column], action[row : row + T, column])


def test_an_error_of_one_group_leaves_the_others_heard() -> None:
    tape: list[Any] = []
    groups = [StreamEnv([0], tape), StreamEnv([1], tape, breaks_at=1), StreamEnv([2], tape)]
    algorithm = StreamAlgorithm()
    actor = make_actor(
        EnvGroups(groups), Policy(algorithm, algorithm.model, LocalWeights(), 3, places(3))
    )
    with pytest.raises(EnvError, match="left the universe"):
        actor.collect(Slot(algorithm.rollout_spec(), T, 3))
    assert [group.pending is None for group in groups] == [True, False, True]


def test_acting_goes_on_from_a_snapshot() -> None:
    source, learner = make(groups_of(2))
    assert source.snapshot() is None  # there is no row yet
    for _ in range(3):
        take(source, learner)
    saved = source.snapshot()
    assert len(saved["groups"]) == 2
    expected = [take(source, learner) for _ in range(3)]
    other, other_learner = make(groups_of(2))
    with torch.no_grad():
        other_learner.algorithm.model.weight += 3
    other_learner.resume(learner.steps, 3)
    other.restore(saved)
    assert all(same(take(other, other_learner), rollout) for rollout in expected)


def test_groups_are_one_vector_too() -> None:
    whole, parts = groups_of(1), groups_of(2)
    rows = []
    for env in (whole, parts):
        rows.append([env.reset()])
        for i in range(20):
            env.send(np.arange(B) + i)
            rows[-1].append(env.recv())
    for a, b in zip(*rows, strict=True):
        assert all(map(np.array_equal, tree_leaves(tuple(a)), tree_leaves(tuple(b))))
    assert whole.episodes() == parts.episodes() != []


def test_a_fault_in_one_group_of_one_vector() -> None:
    class Aborts(StreamEnv):
        def _recv(self) -> Step:
            return super()._recv()._replace(aborted=np.array([False, True]))

    env = EnvGroups([StreamEnv([8, 9]), Aborts([10, 11])])
    env.reset()
    env.send(np.zeros(4, np.int64))
    assert env.recv().first.tolist() == [False, False, False, True]


def test_groups_are_made_with_seeds_of_their_own_or_not_at_all() -> None:
    made: list[Any] = []

    def make_env(num_envs: int, seed: int) -> VectorEnv:
        if len(made) == fails_at:
            raise OSError("no such game: Pitfull")
        made.append((seed, StreamEnv(list(range(num_envs)))))
        return made[-1][1]

    fails_at = 9
    assert isinstance(in_groups([make_env], B, 7), StreamEnv)
    assert made.pop()[0] == 7
    env = in_groups([make_env] * 4, B, 7)
    assert (env.num_envs, len({seed for seed, _ in made})) == (B, 4)
    seeds = [seed for seed, _ in made]
    env.close()
    assert all(group.closed for _, group in made)
    assert [group.name for _, group in made] == [f"stream [0], group {i}" for i in range(4)]
    made.clear()
    in_groups([make_env] * 4, B, 7)
    assert [seed for seed, _ in made] == seeds
    made.clear()
    fails_at = 2
    with pytest.raises(OSError, match="Pitfull"):
        in_groups([make_env] * 4, B, 7)
    assert [group.closed for _, group in made] == [True, True]


def test_all_groups_are_closed_whatever_one_does() -> None:
    class Clings(StreamEnv):
        def close(self) -> None:
            raise OSError("I stay")

    groups = [StreamEnv([0]), Clings([1]), StreamEnv([2])]
    with pytest.raises(OSError, match="I stay"):
        EnvGroups(groups).close()
    assert [group.closed for group in groups] == [True, False, True]


def test_who_acts() -> None:
    algorithm = StreamAlgorithm()
    policy = Policy(algorithm, algorithm.model, LocalWeights(), B, places(B))
    assert type(make_actor(groups_of(1), policy)) is Actor
    assert type(make_actor(groups_of(2), policy)) is Alternating

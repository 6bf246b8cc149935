"""Central inference within one process: who is answered, with which state, by which weights."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
from runners.fakes import CountingAlgorithm, CountingEnv, T

from torchbeast.data.slots import Slot
from torchbeast.loops.actor import Actor
from torchbeast.loops.alternating import Alternating, EnvGroups
from torchbeast.loops.batcher import Waiting
from torchbeast.loops.inference import (
    ANSWERED,
    QUESTION,
    Inference,
    Line,
    Question,
    ServedPolicy,
    ServerGone,
)
from torchbeast.loops.policy import places

WIDTH, ACTORS = 2, 3


class FakeWeights:
    """Makes the model's only parameter equal to the version."""

    def __init__(self):
        self.version = 0
        self.fetched = 0

    def publish(self, model, version):
        self.version = version

    def fetch(self, model):
        self.fetched += 1
        model.updates.data.fill_(self.version)
        return self.version


class Explorer(CountingAlgorithm):
    """Answers with the place where each environment stands."""

    def act(self, model, rows, state, explore):
        _, extras, state = super().act(model, rows, state, explore)
        self.batch_sizes = [*getattr(self, "batch_sizes", []), rows.first.shape[1]]
        return (explore[None] * 100).long(), extras, state


class Served:
    """Inference and the slots of its actors."""

    def __init__(self, **batching):
        self.algorithm = Explorer(4, None)
        self.spec = self.algorithm.rollout_spec()
        self.algorithm.batch_sizes = []
        self.weights = FakeWeights()
        where = places(ACTORS * WIDTH)
        self.inference = Inference(self.algorithm, self.weights, WIDTH, where, Waiting(**batching))
        self.replies = []
        self.slots = {}
        for actor in range(ACTORS):
            self.admit(actor, 0)

    def admit(self, actor, incarnation):
        self.slots[actor] = [Slot(self.spec, T, WIDTH, index=i) for i in range(2)]
        reply = lambda: self.replies.append((actor, incarnation))  # noqa: E731
        self.inference.admit(actor, incarnation, self.slots[actor], reply)

    def ask(self, actor, row, incarnation=0, slot=0, columns=(0, WIDTH)):
        target = self.slots[actor][slot].arrays
        for x in (target.obs, target.reward, target.discount, target.first, target.prev_action):
            x[row] = 0
        return self.inference.ask(actor, Question(incarnation, slot, row, *columns))

    def state(self, actor, slot=0):
        """Returns the rows that were counted before the rollout."""
        return self.slots[actor][slot].arrays.state[0][0, :, 0].tolist()


def test_many_actors_are_answered_at_once_each_in_its_place():
    served = Served()
    for actor, row in [(2, 0), (0, 0)]:
        assert served.ask(actor, row)
    served.inference.answer()
    assert served.algorithm.batch_sizes == [4]
    assert served.replies == [(2, 0), (0, 0)]
    assert served.slots[2][0].arrays.action[0].tolist() == [80, 100]
    assert served.slots[0][0].arrays.action[0].tolist() == [0, 20]
    assert (served.slots[1][0].arrays.action[0] != 40).all()
    assert served.inference.due() is None


def test_states_go_on_from_rollout_to_rollout_and_are_written_with_row_0():
    served = Served()
    for row in range(T):
        served.ask(1, row)
        served.inference.answer()
    served.ask(0, 0)
    served.ask(1, 0, slot=1)
    served.inference.answer()
    assert served.state(1) == [0, 0]
    assert served.state(1, slot=1) == [T, T]
    assert served.state(0) == [0, 0]


def test_versions_are_those_of_the_oldest_weights():
    served = Served(most=1)
    weights = [served.slots[a][0].arrays.extras["weight"] for a in range(2)]
    versions = [served.slots[a][0].arrays.version for a in range(2)]
    served.weights.version = 7
    served.ask(0, 0)
    served.inference.answer()
    served.weights.version = 8
    served.ask(0, 1)
    served.inference.answer()  # no rollout begins: the weights stay
    assert weights[0][:2, 0].tolist() == [7, 7]
    served.ask(0, 2)
    served.ask(1, 0)
    served.inference.answer()
    served.weights.version = 9
    served.inference.answer()
    assert weights[0][2].tolist() == [8, 8]
    assert weights[1][0].tolist() == [8, 8]
    assert (versions[0].tolist(), versions[1].tolist()) == ([7, 7], [8, 8])
    assert served.weights.fetched == 2


def test_the_dead_are_fenced_off():
    served = Served()
    for row in range(3):
        served.ask(1, row)
        served.ask(2, row)
        served.inference.answer()
    served.ask(1, 3)  # and dies
    served.admit(1, 1)
    assert served.replies[-1] == (1, 0)  # answered before, so that it cannot count in the new state
    assert not served.ask(1, 0, incarnation=0)
    assert not served.ask(1, 0, incarnation=2)
    assert served.ask(1, 0, incarnation=1)
    served.ask(2, 0, slot=1)
    served.inference.answer()
    assert served.state(1) == [0, 0]
    assert served.state(2, slot=1) == [3, 3]
    assert not served.inference.ask(99, Question(0, 0, 0, 0, WIDTH))


@pytest.fixture
def line():
    """Answers one actor in a thread; yields its line, and what ends the server."""
    served = Served()
    ours, theirs = socket.socketpair()
    served.inference.admit(0, 5, served.slots[0], lambda: ours.send(ANSWERED))

    def serve():
        while question := ours.recv(QUESTION.size):
            if not served.inference.ask(0, Question(*QUESTION.unpack(question))):
                break
            served.inference.answer()
        ours.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield Line(5, lambda pipe: pipe or theirs, lambda: None, 10.0), served, theirs
    theirs.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("groups", [1, 2])
def test_actors_act_by_it_as_by_a_policy_of_their_own(line, groups):
    line, served, _ = line
    policy = ServedPolicy(line, slice(0, WIDTH))
    if groups == 1:
        actor = Actor(CountingEnv(WIDTH, 3), policy)
    else:
        actor = Alternating(EnvGroups([CountingEnv(1, 3 + i) for i in range(2)]), policy)
    for number in range(6):
        slot = served.slots[0][number % 2]
        slot.fill_magic()
        actor.collect(slot)
        step, first = slot.arrays.obs[..., 3], slot.arrays.first
        assert (first == (step == 0)).all()
        assert slot.arrays.action[:-1].tolist() == [[0, 20]] * T
        prev_action = np.where(first[1:], 0, slot.arrays.action[:-1])
        assert (slot.arrays.prev_action[1:] == prev_action).all()
        assert (slot.arrays.action[-1] == 0).all()
        length = np.array([4, 5 if groups == 1 else 4])
        before = np.where(step[0] == 0, length, step[0]) if number else 0
        assert (slot.arrays.state[0][0, :, 0] == before).all()
    assert served.algorithm.batch_sizes == [WIDTH // groups] * 6 * T * groups


def test_an_old_incarnation_hears_that_it_is_not_served(line):
    line, _, _ = line
    line._incarnation = 4
    line.open()
    with pytest.raises(ServerGone):
        line.ask(0, 0, slice(0, WIDTH))


def test_a_silent_server_is_waited_for_and_a_dead_one_is_not():
    ours, theirs = socket.socketpair()
    waits = []

    def on_wait():
        waits.append(1)
        if len(waits) == 3:
            ours.close()

    line = Line(0, lambda pipe: theirs, on_wait, 0.01)
    policy = ServedPolicy(line, slice(0, WIDTH))
    slot = Slot(CountingAlgorithm(4, None).rollout_spec(), T, WIDTH)
    env = CountingEnv(WIDTH, 3)
    actor = Actor(env, policy)
    with pytest.raises(ServerGone):
        actor.collect(slot)
    assert len(waits) == 3
    assert env.step.tolist() == [0, 0]  # nothing was done without an answer

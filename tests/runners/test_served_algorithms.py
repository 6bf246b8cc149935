"""Every algorithm answered centrally: the same rollouts as by a policy of its own, bit for bit."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from runners.test_replayed import CONTINUOUS, REPLAYED
from runners.test_run import make, train

from torchbeast import envs
from torchbeast.algorithms import a2c, impala, ppo, pqn
from torchbeast.data import tree_leaves
from torchbeast.data.slots import Slot
from torchbeast.loops.actor import Actor
from torchbeast.loops.batcher import Waiting
from torchbeast.loops.inference import Inference, Question, ServedPolicy
from torchbeast.loops.policy import Policy, places
from torchbeast.loops.weights import LocalWeights
from torchbeast.runners.checks import ConfigError
from torchbeast.runners.jobs import make_algorithm, make_envs

T, B, ACTORS = 4, 2, 3
ONCE = {
    "impala": impala.Config(unroll_length=T, batch_size=B, reward_clipping="none"),
    "ppo": ppo.Config(unroll_length=T, batch_size=B, num_minibatches=1),
    "a2c": a2c.Config(unroll_length=T, batch_size=B),
    "pqn": pqn.Config(unroll_length=T, batch_size=B, num_minibatches=1),
}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in [*ONCE, *REPLAYED]),
    ("impala", {"use_lstm": True, "lstm_layers": 2, "normalize_rewards": True}),
    ("ppo", {"use_lstm": True, "normalize_observations": True}),
]


class Direct:
    """A line to inference in this process."""

    def __init__(self, inference: Inference, actor: int, slots: list[Slot]) -> None:
        self.inference, self.actor = inference, actor
        inference.admit(actor, 0, slots, lambda: None)

    def open(self) -> None:
        pass

    def ask(self, slot: int, row: int, columns: slice) -> None:
        question = Question(0, slot, row, columns.start, columns.stop)
        assert self.inference.ask(self.actor, question)
        self.inference.answer()


@pytest.mark.parametrize(("name", "network"), SHAPES, ids=str)
def test_rollouts_are_those_of_a_policy_of_its_own(
    tmp_path: pathlib.Path, name: str, network: dict[str, Any]
) -> None:
    learned = (ONCE | REPLAYED)[name]
    env = {"env": "Pendulum-v1"} if name in CONTINUOUS else {}
    system = {"num_envs": B, "total_steps": 1000}
    config = make(tmp_path, learned=learned, network=network, env=env, system=system)
    algorithm = make_algorithm(config, envs.spec(config.env), 1)
    weights = LocalWeights()
    where = places(ACTORS * B)
    central = Inference(algorithm, weights, B, where, Waiting())
    collected = []
    for actor in range(ACTORS):
        slots = [Slot(algorithm.rollout_spec(), T, B, index=i) for i in range(3)]
        own = Policy(algorithm, algorithm.model, weights, B, where[actor * B : (actor + 1) * B])
        served: Any = ServedPolicy(Direct(central, actor, slots), slice(0, B))  # type: ignore
        for policy in (own, served):
            acting = Actor(make_envs(config, 1, B, actor, actor), policy)
            mine = slots if policy is served else [Slot(algorithm.rollout_spec(), T, B)]
            leaves: list[Any] = []
            torch.manual_seed(actor)
            for number in range(6):
                slot = mine[number % len(mine)]
                acting.collect(slot)
                leaves += [x.clone() for x in tree_leaves(tuple(slot.rollout))]
            acting.env.close()
            collected.append(leaves)
    for one, other in zip(collected[::2], collected[1::2], strict=True):
        assert all(map(torch.equal, one, other))
    assert not all(map(torch.equal, collected[0], collected[2]))


@pytest.mark.parametrize("name", ["impala", "r2d2"])
def test_runs_learn(tmp_path: pathlib.Path, name: str) -> None:
    learned = (ONCE | REPLAYED)[name]
    system = {"num_actors": 2, "envs_per_actor": 2, "env_groups": 2, "inference": "central"}
    network = {"use_lstm": True, "normalize_rewards": name == "impala"}
    run = make(tmp_path, learned=learned, network=network, system={"total_steps": 160, **system})
    assert train(run).steps >= 160


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"num_envs": 2}, "expected actor processes for --inference central, got none"),
        (
            {"num_actors": 2, "inference_min_batch": 3},
            "expected --inference_min_batch of at most 2",
        ),
        (
            {"num_actors": 8, "inference_min_batch": 3, "inference_max_batch": 2},
            "expected --inference_min_batch of at most 2",
        ),
        ({"num_actors": 2, "inference_max_batch": 0}, "expected --inference_max_batch of 1"),
        ({"num_actors": 2, "inference_timeout_ms": -1.0}, "expected --inference_timeout_ms of 0"),
        ({"num_actors": 2, "inference_device": "gpu"}, "expected --inference_device auto, cpu"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: pathlib.Path, system: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, system={"inference": "central", **system})

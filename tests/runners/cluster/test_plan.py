"""How many actors and workers are planned, and that all of them find room."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from torchbeast.commands.flags import train_config
from torchbeast.runners.checks import ConfigError, checked
from torchbeast.runners.cluster.plan import planned
from torchbeast.runners.config import RunConfig


def asked(*flags: str) -> RunConfig:
    """Returns the config of these flags, on a cluster."""
    config = train_config("impala", "", ["--env", "CartPole-v1", "--runner", "cluster", *flags])
    assert config is not None
    return config


def places(cpus: tuple[float, ...], sizes: list[int]) -> bool:
    """Returns whether processes of these sizes, in this order, fit wherever each is put."""
    if not sizes:
        return True
    fitting = [i for i, n in enumerate(cpus) if n >= sizes[0]]
    return bool(fitting) and all(
        places((*cpus[:i], cpus[i] - sizes[0], *cpus[i + 1 :]), sizes[1:]) for i in fitting
    )


@pytest.mark.parametrize("learners", [1, 2, 3])
@pytest.mark.parametrize("cpus", [(4, 4), (8, 2), (3, 3, 3), (7,), (1, 1, 4)])
def test_all_that_is_planned_finds_room(cpus: tuple[float, ...], learners: int) -> None:
    config = planned(asked("--num_learners", str(learners)), list(cpus))
    width = config.cluster.actors_per_worker
    assert config.system.num_actors % (learners * width) == 0
    workers = [width] * (config.system.num_actors // width)
    for order in set(itertools.permutations([1] * (learners - 1) + workers[:4])):
        assert places(cpus, [*order, *workers[4:]])


def test_one_learner_leaves_no_cpu_idle_and_shares_workers_as_far_as_possible() -> None:
    for cpus, actors, width in [((4.0, 4.0), 8, 4), ((8.0, 2.0), 10, 2), ((2.0,), 2, 2)]:
        config = planned(asked(), list(cpus))
        assert (config.system.num_actors, config.cluster.actors_per_worker) == (actors, width)


def test_half_a_cpu_for_each_actor_makes_twice_as_many() -> None:
    config = planned(asked("--cpus_per_actor", "0.5"), [2.0, 3.0])
    assert config.system.num_actors == 10


def test_too_few_cpus_are_told() -> None:
    with pytest.raises(ConfigError, match=r"expected CPUs for 2 learners .* got nodes with 2;"):
        planned(asked("--num_learners", "2"), [2.0])


def test_workers_that_would_leave_actors_out_are_refused() -> None:
    config = asked("--num_actors", "6", "--actors_per_worker", "4")
    with pytest.raises(ConfigError, match="--actors_per_worker to divide the 6 actors"):
        checked(config)
    fitting = dataclasses.replace(config.cluster, actors_per_worker=3)
    checked(dataclasses.replace(config, cluster=fitting))

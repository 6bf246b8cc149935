"""How many actors there are on a cluster, and how many share a worker, where nobody said."""

from __future__ import annotations

import dataclasses
import heapq

from torchbeast.runners.checks import ConfigError
from torchbeast.runners.config import RunConfig


def planned(config: RunConfig, cpus: list[float]) -> RunConfig:
    """Returns ``config`` with the automatic settings of a cluster whose nodes have ``cpus``.

    An actor for each CPU that the learners beside the first leave, and workers as large as surely
    find room.

    Raises:
        ConfigError: each learner is to have an actor, and there are not as many CPUs.
    """
    system, cluster = config.system, config.cluster
    learners, each = system.num_learners, cluster.cpus_per_actor
    left = [-n for n in cpus]
    heapq.heapify(left)
    for _ in range(learners - 1):  # Ray places them; wherever that is, a CPU is taken
        heapq.heapreplace(left, left[0] + 1)
    room = sum(_holds(-n, each) for n in left)
    if not system.num_actors and room < learners:
        raise ConfigError(
            f"expected CPUs for {learners} learners (one for each but the first) and an actor of "
            f"each (--cpus_per_actor {each:g}), got nodes with {', '.join(f'{n:g}' for n in cpus)};"
            f" lower --num_learners or --cpus_per_actor, or say --num_actors and add nodes later"
        )
    actors = system.num_actors or learners * (room // learners)
    width = cluster.actors_per_worker or _width(actors // learners, learners, cpus, each)
    return dataclasses.replace(
        config,
        system=dataclasses.replace(system, num_actors=actors),
        cluster=dataclasses.replace(cluster, actors_per_worker=width),
    )


def _width(share: int, learners: int, cpus: list[float], each: float) -> int:
    """Returns the most actors of a worker that divide those of a learner and surely find room."""

    def fits(width: int) -> bool:
        places = sum(_holds(n, width * each) for n in cpus)
        return places - (learners - 1) >= learners * share // width

    return max((n for n in range(1, share + 1) if share % n == 0 and fits(n)), default=1)


def _holds(cpus: float, each: float) -> int:
    return int(cpus / each + 1e-9)

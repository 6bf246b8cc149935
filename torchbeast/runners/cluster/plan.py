"""How many actors there are on a cluster, and how many share a worker, where nobody said."""

from __future__ import annotations

import dataclasses

from torchbeast.runners.config import RunConfig


def planned(config: RunConfig, cpus: list[float]) -> RunConfig:
    """Returns ``config`` with the automatic settings of a cluster whose nodes have ``cpus``.

    An actor for each CPU, as many in a worker as fit on every node.
    """
    system, cluster = config.system, config.cluster
    per_node = [max(1, int(n / cluster.cpus_per_actor)) for n in cpus]
    ranks = system.num_learners
    actors = system.num_actors or ranks * max(1, sum(per_node) // ranks)
    width = cluster.actors_per_worker or max(
        n for n in range(1, min(per_node) + 1) if actors // ranks % n == 0
    )
    return dataclasses.replace(
        config,
        system=dataclasses.replace(system, num_actors=actors),
        cluster=dataclasses.replace(cluster, actors_per_worker=width),
    )

"""Learners 1 and up of a run, each on a node of the cluster."""

from __future__ import annotations

import pickle
from typing import Any

from torchbeast import user_code
from torchbeast.runners.config import RunConfig
from torchbeast.runners.follow import follow


class ClusterFollowers:
    """Followers that Ray places: each with a GPU of its own where there are enough.

    They meet at a port of rank 0's machine, which asks nobody who he is: nodes of a cluster trust
    each other. They own the workers that act for them, and end with rank 0.
    """

    def __init__(self, config: RunConfig) -> None:
        import ray

        self._ray = ray
        self._config = config
        self._actors: list[Any] = []
        self._ends: list[Any] = []
        self.address = f"tcp://{ray.util.get_node_ip_address()}:0"

    def start(self, address: str) -> None:
        """Starts all; they come to the meeting at ``address``."""
        ranks = range(1, self._config.system.num_learners)
        gpus = self._ray.cluster_resources().get("GPU", 0.0) >= len(ranks)
        wanted = not self._config.system.disable_cuda and self._config.system.device != "cpu"
        options = {"num_cpus": 1, "num_gpus": int(gpus and wanted), "max_restarts": 0}
        learner = self._ray.remote(_Learner).options(**options, scheduling_strategy="SPREAD")
        files = user_code.carry_out(self._config.references())
        for rank in ranks:
            self._actors.append(learner.remote(pickle.dumps(self._config), files))
            self._ends.append(self._actors[-1].follow.remote(rank, address))

    def failure(self) -> str | None:
        """Returns how one of them ended; None if none did."""
        ended, _ = self._ray.wait(self._ends, timeout=0)
        try:
            self._ray.get(ended)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            return f"a learner on another node ended: {cause}"
        return "a learner on another node ended" if ended else None

    def close(self) -> None:
        """Ends those that have not ended by themselves."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._ends = [], []


class _Learner:
    """One follower, in a process of Ray's."""

    def __init__(self, config: bytes, files: dict[str, str]) -> None:
        user_code.carry_in(files)
        self._config: RunConfig = pickle.loads(config)

    def follow(self, rank: int, address: str) -> None:
        """Learns until rank 0 ends the run."""
        follow(self._config, rank, address)

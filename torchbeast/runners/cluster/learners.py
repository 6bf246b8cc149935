"""Learners 1 and up of a run, each on a node of the cluster."""

from __future__ import annotations

import pickle
from typing import Any

from torchbeast import user_code
from torchbeast.runners.cluster.told import full_text
from torchbeast.runners.config import RunConfig
from torchbeast.runners.follow import follow, log_to_stderr


class ClusterFollowers:
    """Followers that Ray places: each with a GPU of its own where there are enough.

    They meet at a port of rank 0's machine, which asks nobody who he is: nodes of a cluster trust
    each other. They own the workers that act for them, and end with rank 0. Each takes its place
    when this is made: before the workers of rank 0, which might leave no whole CPU.

    Args:
        config: checked.
    """

    def __init__(self, config: RunConfig) -> None:
        import ray

        self._ray = ray
        self._ends: list[Any] = []
        self.address = f"tcp://{ray.util.get_node_ip_address()}:0"
        count = config.system.num_learners - 1
        gpus = ray.cluster_resources().get("GPU", 0.0) >= count
        wanted = not config.system.disable_cuda and config.system.device != "cpu"
        options = {"num_cpus": 1, "num_gpus": int(gpus and wanted), "max_restarts": 0}
        learner = ray.remote(_Learner).options(**options, scheduling_strategy="SPREAD")
        packed, files = pickle.dumps(config), user_code.carry_out(config.references())
        self._actors: list[Any] = [learner.remote(packed, files) for _ in range(count)]

    def start(self, address: str) -> None:
        """Starts all; they come to the meeting at ``address``."""
        for rank, actor in enumerate(self._actors, 1):
            self._ends.append(actor.follow.remote(rank, address))

    def failure(self) -> str | None:
        """Returns how one of them ended; None if none did."""
        ended, _ = self._ray.wait(self._ends, timeout=0)
        try:
            self._ray.get(ended)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            return f"a learner on another node ended: {full_text(cause)}"
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
        log_to_stderr()
        follow(self._config, rank, address)

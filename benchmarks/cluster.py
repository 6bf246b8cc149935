"""How many steps a learner of a cluster can take in: synthetic workers send what cost them nothing.

    python benchmarks/cluster.py --workers 1 2 4 --codecs none lz4
    python benchmarks/cluster.py --env CartPole-v1 --envs_per_actor 64 --unroll_length 32

Each worker acts for one real rollout of the environment, packs it once, and then answers every
request with a copy under the next number. The learner does all that it does in a run but the
update: it asks, receives, checks, unpacks, makes batches and frees them. So the rate is what its
machine takes in at most, with the workers on the same cores here. Workers run on a Ray cluster of
this machine that is started and ended.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import time
from typing import Any

import numpy as np

from torchbeast import envs
from torchbeast.commands.flags import train_config
from torchbeast.data.message import RolloutFormat, Stamp
from torchbeast.data.message.header import HEADER_BYTES, read_header, write_header
from torchbeast.data.slots import Slot
from torchbeast.loops.actor import Actor
from torchbeast.loops.policy import Policy, places
from torchbeast.loops.weights import LocalWeights
from torchbeast.runners.build import build
from torchbeast.runners.checks import checked
from torchbeast.runners.cluster import remote
from torchbeast.runners.cluster.plan import planned
from torchbeast.runners.cluster.session import connected
from torchbeast.runners.cluster.worker import Job, Parcel, Started
from torchbeast.runners.config import RunConfig
from torchbeast.runners.jobs import make_algorithm


class SyntheticWorker:
    """Answers as a RolloutWorker does, at once."""

    def __init__(self, job: Job) -> None:
        config: RunConfig = pickle.loads(job.config)
        self._job = job
        self._sequence = 0
        algorithm = make_algorithm(config, job.spec, config.system.num_learners)
        spec, unroll_length = algorithm.rollout_spec(), algorithm.needs.unroll_length
        width = job.acting.width
        slot = Slot(spec, unroll_length, width)
        env = envs.make(config.env, width, job.seed)
        policy = Policy(algorithm, algorithm.model, LocalWeights(), width, places(width))
        actor = Actor(env, policy)
        for _ in range(3):  # past the first screens
            actor.collect(slot)
        env.close()
        packing = RolloutFormat(spec, unroll_length, width, job.spec.frame_stack)
        stamp = Stamp(job.worker, job.incarnation, 0)
        self._message = packing.pack(slot, stamp, config.cluster.codec)

    def start(self, probe: list[Any]) -> Started:
        """Returns a name of the node."""
        return Started(f"synthetic-{self._job.worker}", float("inf"))

    def collect(self, under_way: int, version: int, weights: Any = None) -> Parcel:
        """Returns the one rollout again."""
        header = read_header(memoryview(self._message))._replace(sequence=self._sequence)
        self._sequence += 1
        self._message[:HEADER_BYTES] = np.frombuffer(write_header(header), np.uint8)
        return Parcel(self._message, 0, [], {})


def measure(config: RunConfig, seconds: float) -> dict[str, float]:
    """Returns rates of a learner that is sent as much as it asks for."""
    _, source, _ = build(config, 0)
    try:
        for _ in range(5):
            _take(source.buffer, source.fill)
        before, began = source.metrics(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            _take(source.buffer, source.fill)
        took, after = time.perf_counter() - began, source.metrics()
    finally:
        source.close()
    sent, rollouts = (after[name] - before[name] for name in ("sent_bytes", "rollouts"))
    steps = rollouts * config.algorithm.unroll_length * config.system.envs_per_actor
    return {
        "rollouts_per_s": rollouts / took,
        "steps_per_s": steps / took,
        "MB_per_s": sent / took / 1e6,
        "bytes_per_step": sent / steps,
    }


def _take(buffer: Any, fill: Any) -> None:
    fill()
    buffer.get()
    buffer.feedback()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="PongNoFrameskip-v4")
    parser.add_argument("--envs_per_actor", type=int, default=32)
    parser.add_argument("--unroll_length", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--codecs", nargs="+", default=["none", "lz4"])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    remote.RolloutWorker = SyntheticWorker  # type: ignore[misc]
    results: dict[tuple[str, int], list[dict[str, float]]] = {}
    with connected(None, None):
        for _ in range(arguments.rounds):
            for codec in arguments.codecs:
                for workers in arguments.workers:
                    flags = ["--env", arguments.env, "--preset", "none", "--runner", "cluster"]
                    flags += ["--batch_size", str(arguments.envs_per_actor), "--codec", codec]
                    flags += ["--unroll_length", str(arguments.unroll_length)]
                    flags += ["--envs_per_actor", str(arguments.envs_per_actor)]
                    flags += ["--num_actors", str(workers), "--cpus_per_actor", "0.01"]
                    config = train_config("impala", "benchmarks/cluster.py", flags)
                    assert config is not None
                    config = checked(planned(config, [0.01]))
                    rates = measure(config, arguments.seconds)
                    results.setdefault((codec, workers), []).append(rates)
    for (codec, workers), rounds in results.items():
        median = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
        print(json.dumps({"codec": codec, "workers": workers, "rounds": len(rounds)} | median))


if __name__ == "__main__":
    main()

"""Measures actor processes with a model each against one process that answers them all.

    python benchmarks/inference.py --env CartPole-v1 --num_actors 4
    python benchmarks/inference.py --env PongNoFrameskip-v4 --num_actors 4 --envs_per_actor 4

Both kinds are started once and measured in turn, so that a busy machine is as busy for one as for
the other; the pool that is not measured has filled its slots and waits.
"""

from __future__ import annotations

import argparse
import statistics
import time

import psutil

from torchbeast.algorithms import impala
from torchbeast.envs import EnvConfig
from torchbeast.nets import NetworkConfig
from torchbeast.runners.async_ import ActorPool
from torchbeast.runners.build import build
from torchbeast.runners.checks import checked
from torchbeast.runners.config import RunConfig, SystemConfig


class Side:
    """A run without logs, answered in one of the two ways."""

    def __init__(self, flags: argparse.Namespace, inference: str) -> None:
        config = RunConfig(
            env=EnvConfig(flags.env),
            algorithm=impala.Config(unroll_length=20, batch_size=8),
            network=NetworkConfig(use_lstm=flags.use_lstm),
            system=SystemConfig(
                total_steps=10**9,
                num_actors=flags.num_actors,
                envs_per_actor=flags.envs_per_actor,
                inference=inference,
            ),
        )
        _, source, self.learner = build(checked(config), 0)
        assert isinstance(source, ActorPool)
        self.source = source
        self.learner.resume(0, 0)
        self.run(5.0)

    def run(self, seconds: float) -> int:
        """Returns the environment steps of so many seconds of acting and learning."""
        before, end = self.learner.steps, time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.source.fill()
            self.learner.step()
            self.learner.metrics()
            self.source.episodes()
        return self.learner.steps - before

    def measure(self, seconds: float) -> tuple[float, float]:
        """Returns steps per second, and microseconds of CPU of all processes for each."""
        self.run(1.0)  # what waits in slots was not made now
        cpu, began = self.cpu(), time.perf_counter()
        steps = self.run(seconds)
        return steps / (time.perf_counter() - began), 1e6 * (self.cpu() - cpu) / steps

    def cpu(self) -> float:
        """Returns the CPU seconds of all processes so far."""
        pids = [m.worker.pid for m in self.source._members if m.worker is not None]
        processes = [psutil.Process(), *map(psutil.Process, pids)]
        return sum(sum(p.cpu_times()[:2]) for p in processes)


def main() -> None:
    """Prints medians, least and most of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--num_actors", type=int, default=4)
    parser.add_argument("--envs_per_actor", type=int, default=1)
    parser.add_argument("--use_lstm", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    flags = parser.parse_args()
    sides = {name: Side(flags, name) for name in ("local", "central")}
    taken = {name: [] for name in sides}
    for _ in range(flags.rounds):
        for name, side in sides.items():
            taken[name].append(side.measure(flags.seconds))
    for name, results in taken.items():
        speeds, costs = zip(*results, strict=True)
        for numbers, unit in [(speeds, "steps/s"), (costs, "us of CPU per step")]:
            middle = statistics.median(numbers)
            print(f"{name:8} {middle:9.0f} ({min(numbers):.0f}..{max(numbers):.0f}) {unit}")
    for side in sides.values():
        side.source.close()


if __name__ == "__main__":
    main()

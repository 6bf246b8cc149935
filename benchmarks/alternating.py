"""What turns save: acting in groups of environments beside acting in all of them at once.

    python benchmarks/alternating.py
    python benchmarks/alternating.py busy --cost 0.5 --workers 4 --groups 4
    python benchmarks/alternating.py pong-shallow pong-deep --train

``busy`` and ``asleep`` are environments in worker processes: one step takes its share of ``--cost``
forward passes of all columns, which are measured first, as work of a core or as a wait. So with
--cost 1 one core steps all columns while another answers them. Both sides have the same number of
workers, or of ale-py's threads; PyTorch has one thread. The sides take turns, A B A B; the ratio is
the median over the rounds.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from torchbeast import envs
from torchbeast.algorithms import impala
from torchbeast.data import EnvSpec
from torchbeast.data.slots import Slot
from torchbeast.envs import EnvConfig
from torchbeast.loops.alternating import in_groups
from torchbeast.loops.learner import Learner
from torchbeast.loops.policy import Policy, places
from torchbeast.loops.weights import LocalWeights
from torchbeast.nets import NetworkConfig
from torchbeast.runners.local import LocalSource
from torchbeast.tools.memory import keep_freed_memory

SPEC = EnvSpec(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6))
CASES = ("busy", "asleep", "pong-shallow", "pong-deep")
ANSWERS = 100  # forward passes that are timed to set the cost of a step


class Costly(gymnasium.Env):
    """Takes ``seconds`` for a step, of a core's work or of sleep; shows noise."""

    def __init__(self, seconds: float, asleep: bool) -> None:
        self.observation_space = SPEC.observation
        self.action_space = SPEC.action
        self.seconds = seconds
        self.asleep = asleep
        self.picture = np.random.default_rng(0).integers(0, 256, (4, 84, 84), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.picture, {}

    def step(self, action: Any) -> Any:
        if self.asleep:
            time.sleep(self.seconds)
        else:
            end = time.thread_time() + self.seconds
            while time.thread_time() < end:
                pass
        return self.picture, 0.0, False, False, {}


def make_algorithm(spec: EnvSpec, network: str, arguments: argparse.Namespace) -> impala.Impala:
    """Returns an IMPALA whose learning rate is 0 after the first update."""
    torch.manual_seed(0)
    config = impala.Config(unroll_length=arguments.T, batch_size=arguments.B)
    return impala.Impala(config, NetworkConfig(network=network), spec, 1)


def forward_seconds(algorithm: impala.Impala, columns: int) -> float:
    """Returns the median time of answering one row."""
    slot = Slot(algorithm.rollout_spec(), 1, columns)
    for array in (slot.arrays.reward, slot.arrays.discount, slot.arrays.first, slot.arrays.obs):
        array[:] = 0
    policy = Policy(algorithm, algorithm.model, LocalWeights(), columns, places(columns))
    slot.arrays.prev_action[:] = 0
    taken = []
    for _ in range(ANSWERS):
        began = time.perf_counter()
        policy.answer(slot.row(0))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def side(
    config: EnvConfig, network: str, groups: int, arguments: argparse.Namespace
) -> tuple[Callable[[], int], LocalSource]:
    """Returns a function that acts for a batch and returns its steps, and what it acts with."""
    make = functools.partial(envs.make, config, num_threads=arguments.threads)
    env = in_groups([make] * groups, arguments.B, 0)
    algorithm = make_algorithm(env.spec, network, arguments)
    weights = LocalWeights()
    source = LocalSource(algorithm, env, weights)
    learner = Learner(algorithm, source.buffer, weights)
    learner.resume(1, 0)

    def once() -> int:
        source.fill()
        if arguments.train:
            learner.step()
        else:
            source.buffer.get()
            source.buffer.feedback()
        source.episodes()
        return arguments.T * arguments.B

    return once, source


def compare(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the speeds of both sides of a case."""
    network = "deep" if case == "pong-deep" else "shallow"
    forward = forward_seconds(make_algorithm(SPEC, network, arguments), arguments.B)
    if case.startswith("pong"):
        plain = grouped = EnvConfig("PongNoFrameskip-v4")
    else:
        seconds = arguments.cost * forward / arguments.B
        kwargs = {"seconds": seconds, "asleep": case == "asleep"}
        config = functools.partial(EnvConfig, f"{os.path.abspath(__file__)}:Costly", kwargs)
        plain = config(env_workers=arguments.workers)
        grouped = config(env_workers=arguments.workers // arguments.groups)
    sides = {
        "plain": side(plain, network, 1, arguments),
        "alternating": side(grouped, network, arguments.groups, arguments),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for number in range(-1, arguments.rounds):
            for name, (once, _) in sides.items():
                began = time.perf_counter()
                steps = sum(once() for _ in range(arguments.rollouts))
                if number >= 0:  # the first round warms up
                    speeds[name].append(steps / (time.perf_counter() - began))
    finally:
        for _, source in sides.values():
            source.close()
    pairs = zip(speeds["alternating"], speeds["plain"], strict=True)
    ratios = [a / b for a, b in pairs]
    return {
        "forward_ms": 1000 * forward,
        "steps_per_second": {name: statistics.median(s) for name, s in speeds.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "rounds": speeds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=CASES, help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rollouts", type=int, default=4, help="of each side in a round")
    parser.add_argument("--cost", type=float, default=1.0, help="of a step, in forward passes")
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="over all groups")
    parser.add_argument("--threads", type=int, default=0, help="of ale-py; 0: all cores")
    parser.add_argument("--T", type=int, default=20)
    parser.add_argument("--B", type=int, default=64)
    parser.add_argument("--train", action="store_true", help="learn from each batch, too")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per case")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for case in arguments.cases:
        if case not in CASES:
            parser.error(f"expected a case of {', '.join(CASES)}, got {case}")
        load = os.getloadavg()[0]
        result = compare(case, arguments)
        if arguments.json:
            print(json.dumps({"case": case, "load": load} | vars(arguments) | result), flush=True)
            continue
        plain, alternating = result["steps_per_second"].values()
        low, high = min(result["ratios"]), max(result["ratios"])
        print(
            f"{case:13} forward {result['forward_ms']:6.2f} ms   plain {plain:7.0f} steps/s   "
            f"alternating {alternating:7.0f}   x {result['ratio']:.2f} ({low:.2f} to {high:.2f})   "
            f"load before {load:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

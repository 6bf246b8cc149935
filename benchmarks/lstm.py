"""What memory costs: the update of the shallow network with an LSTM beside that without one.

    python benchmarks/lstm.py --rounds 7 --threads 1

T 80, B 8, images of 4x84x84; episodes begin 0, 1 and 3 times per environment in the unroll, at rows
of their own. The variants take turns; each number is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from torchbeast.algorithms import impala
from torchbeast.data import EnvSpec
from torchbeast.data.slots import Slot
from torchbeast.nets import NetworkConfig
from torchbeast.tools.memory import keep_freed_memory

SPEC = EnvSpec(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6))
RESETS = (0, 1, 3)
TOTAL_STEPS = 1  # past it the learning rate is 0: the weights stay


def filled(algorithm: impala.Impala, resets: int, seed: int = 0) -> Slot:
    """Returns a rollout of noise in which each environment begins ``resets`` episodes."""
    generator = np.random.default_rng(seed)
    config = algorithm.config
    slot = Slot(algorithm.rollout_spec(), config.unroll_length, config.batch_size)
    arrays: Any = slot.arrays
    arrays.obs[:] = generator.integers(0, 256, arrays.obs.shape, np.uint8)
    arrays.action[:] = generator.integers(0, 6, arrays.action.shape)
    arrays.reward[:] = generator.normal(size=arrays.reward.shape)
    arrays.discount[:] = 1
    arrays.first[:] = False
    for column in range(config.batch_size):
        rows = generator.choice(np.arange(2, config.unroll_length), resets, replace=False)
        arrays.first[rows, column] = True
        arrays.discount[rows - 1, column] = 0
    arrays.prev_action[1:] = np.where(arrays.first[1:], 0, arrays.action[:-1])
    return slot


def update_of(use_lstm: bool, resets: int, arguments: argparse.Namespace) -> Callable[[], None]:
    """Returns a function that makes one update of the variant."""
    torch.manual_seed(0)
    network = NetworkConfig(network="shallow", use_lstm=use_lstm, precision=arguments.precision)
    config = impala.Config(unroll_length=arguments.T, batch_size=arguments.B)
    algorithm = impala.Impala(config, network, SPEC, TOTAL_STEPS)
    slot = filled(algorithm, resets)

    def once() -> None:
        algorithm.update(slot.rollout, TOTAL_STEPS)

    return once


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=2, help="of each variant in a round")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: all cores")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--T", type=int, default=80)
    parser.add_argument("--B", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or len(os.sched_getaffinity(0)))
    keep_freed_memory()
    variants = {"feed-forward": update_of(False, 1, arguments)}
    variants |= {f"LSTM, {n} resets": update_of(True, n, arguments) for n in RESETS}
    taken: dict[str, list[float]] = {name: [] for name in variants}
    load = os.getloadavg()[0]
    for number in range(-1, arguments.rounds):
        for name, once in variants.items():
            began = time.perf_counter()
            for _ in range(arguments.updates):
                once()
            if number >= 0:  # the first round warms up
                taken[name].append((time.perf_counter() - began) / arguments.updates)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds, taken["feed-forward"], strict=True))
        for name, seconds in taken.items()
    }
    if arguments.json:
        print(json.dumps({"seconds": medians, "ratios": ratios, "rounds": taken, "load": load}))
        return
    shape = f"T {arguments.T} B {arguments.B} {arguments.precision}"
    print(f"update, {shape}, {torch.get_num_threads()} threads, load before {load:.1f}")
    for name, seconds in medians.items():
        print(f"{name:16} {1000 * seconds:8.1f} ms   x {ratios[name]:.2f}")


if __name__ == "__main__":
    main()

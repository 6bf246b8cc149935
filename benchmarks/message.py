"""What a rollout costs as a message: bytes of a step, and how fast it is packed and unpacked.

    python benchmarks/message.py
    python benchmarks/message.py --env SeaquestNoFrameskip-v4 --shapes 80x32

An untrained IMPALA network acts, so all of IMPALA's rollout travels: observations, reward,
discount, first, actions, logits. ``--skip`` steps go by first, so that games are under way. The
speed is that of slots, stacks and all, in and out; the best of a second each, on one thread.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import torch

from torchbeast import envs
from torchbeast.algorithms import impala
from torchbeast.data import tree_leaves
from torchbeast.data.message import RolloutFormat
from torchbeast.data.message.probe import cheapest, measure_codecs
from torchbeast.data.slots import Slot
from torchbeast.envs import EnvConfig
from torchbeast.loops.actor import Actor
from torchbeast.loops.policy import Policy, places
from torchbeast.loops.weights import LocalWeights
from torchbeast.nets import NetworkConfig

LINKS = {"100 Mb/s": 12.5e6, "1 Gb/s": 125e6, "10 Gb/s": 1.25e9, "100 Gb/s": 12.5e9}


def rollout(env_name: str, unroll_length: int, num_envs: int, skip: int) -> tuple[Any, ...]:
    """Returns a filled slot, another one, and their format."""
    env = envs.make(EnvConfig(env_name), num_envs, 0)
    algorithm = impala.Impala(impala.Config(), NetworkConfig(), env.spec, 1000)
    policy = Policy(algorithm, algorithm.model, LocalWeights(), num_envs, places(num_envs))
    actor, spec = Actor(env, policy), algorithm.rollout_spec()
    slot = Slot(spec, unroll_length, num_envs)
    for _ in range(1 + skip // unroll_length):
        actor.collect(slot)
    env.close()
    format = RolloutFormat(spec, unroll_length, num_envs, env.spec.frame_stack)
    return slot, Slot(spec, unroll_length, num_envs), format


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    games = ["PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"]
    parser.add_argument("--env", nargs="+", default=games)
    parser.add_argument("--shapes", nargs="+", default=["20x8", "20x32", "80x8", "80x32"])
    parser.add_argument("--skip", type=int, default=200, help="steps of each environment")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for env in arguments.env:
        for shape in arguments.shapes:
            unroll_length, num_envs = map(int, shape.split("x"))
            slot, into, format = rollout(env, unroll_length, num_envs, arguments.skip)
            steps = unroll_length * num_envs
            megabytes = sum(x.nbytes for x in tree_leaves(tuple(slot.arrays))) / 1e6
            costs = measure_codecs(format, slot, into, 3.0)
            print(f"{env}, T x B {shape}: {1e6 * megabytes / steps:.0f} bytes of a slot per step")
            for codec, cost in costs.items():
                speed = {
                    "bytes_per_step": cost.num_bytes / steps,
                    "pack_mb_per_s": megabytes / cost.pack_s,
                    "unpack_mb_per_s": megabytes / cost.unpack_s,
                }
                print(
                    f"  {codec:5} {speed['bytes_per_step']:8.0f} bytes per step, packs "
                    f"{speed['pack_mb_per_s']:6.0f} MB/s, unpacks {speed['unpack_mb_per_s']:6.0f} "
                    f"MB/s, {steps / (cost.pack_s + cost.unpack_s):9,.0f} steps/s for both"
                )
                results.append({"env": env, "shape": shape, "codec": codec} | speed)
            chosen = {link: cheapest(costs, speed) for link, speed in LINKS.items()}
            print("  chosen:", ", ".join(f"{codec} at {link}" for link, codec in chosen.items()))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

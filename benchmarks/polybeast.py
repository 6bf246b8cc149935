"""Speed of PolyBeast: servers, actors, inference and learner, as whole runs.

    python benchmarks/polybeast.py --seconds 120 --skip 30 --rounds 3

It runs each workload in turn, as `python -m torchbeast.polybeast` for a given time, and counts the
steps that its logs.csv says were learned from:

- deep, shallow: Pong with the ancestor's settings (T 80, B 8, 4 servers, 4 actors, float32) and the
  network of this name;
- servers: what a server costs: CartPole, which steps in microseconds, and a tiny network.

What follows ``--`` are more flags of polybeast, such as ``--envs_per_actor 1``.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import statistics
import sys
import tempfile
import time

from peers import Run, newest_log, rate, run_for

PONG = "--env PongNoFrameskip-v4 --num_servers 4 --num_actors 4 --envs_per_actor 8"
WORKLOADS = {
    "deep": f"{PONG} --network deep",
    "shallow": f"{PONG} --network shallow",
    "servers": "--env CartPole-v1 --num_servers 2 --num_actors 2 --envs_per_actor 128 "
    "--batch_size 128 --num_learner_threads 1 --num_inference_threads 1",
}


def measure(workload: str, arguments: argparse.Namespace) -> Run:
    """Returns how fast one workload ran."""
    load, began = os.getloadavg()[0], time.time()
    with tempfile.TemporaryDirectory(prefix="torchbeast-") as folder:
        command = [sys.executable, "-m", "torchbeast.polybeast", *WORKLOADS[workload].split()]
        command += ["--pipes_basename", f"unix:{folder}/s", "--savedir", folder, "--xpid", "run"]
        command += ["--total_steps", "1G", "--disable_checkpoint", *arguments.flags]
        printed = run_for(f"exec {shlex.join(command)}", arguments.seconds, ends_itself=False)
        try:
            log = newest_log(f"{folder}/run/logs.csv", began)
            speed, window = rate(log, began + arguments.skip, began + arguments.seconds)
        except ValueError as error:
            sys.exit(f"{workload}: {error}\n{shlex.join(command)}\n{printed[-2000:]}")
    print(f"{workload:8} {speed:10,.1f} steps/s over {window:5.0f} s   load before {load:.1f}")
    return Run(workload, load, speed, window)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=120.0, help="of each run")
    parser.add_argument("--skip", type=float, default=30.0, help="seconds left out at the start")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("flags", nargs="*", help="more flags of polybeast, after --")
    arguments = parser.parse_args()
    runs = [
        measure(name, arguments) for _ in range(arguments.rounds) for name in arguments.workloads
    ]
    result: dict[str, object] = {"flags": arguments.flags, "runs": [run._asdict() for run in runs]}
    for name in arguments.workloads:
        median = statistics.median(run.steps_per_second for run in runs if run.who == name)
        print(f"{name}: median {median:,.1f} steps/s")
        result[name] = median
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

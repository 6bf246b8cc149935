"""Memory over a long run: what all its processes hold after a while, and at the end.

    python benchmarks/memory.py --steps 2000000 -- --env CartPole-v1 --num_learners 2

What follows ``--`` are flags of ``torchbeast train ALGORITHM``. Two numbers are reported:
``rss_gb`` of logs.csv (the first learner's process), and the resident memory of all processes of
the run, sampled here twice a second (memory that processes share is counted in each).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
import psutil

from torchbeast.tools.tables import read_table

NEIGHBOURS = 5  # samples in the median that stands for one moment


class Growth(NamedTuple):
    """Gigabytes early and late."""

    early: float
    late: float

    @property
    def percent(self) -> float:
        """How much more the second is."""
        return 100 * (self.late / self.early - 1)


def total_rss(process: psutil.Process) -> int:
    """Returns the resident bytes of a process and all that it started."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def sample(command: list[str], every: float = 0.5) -> list[tuple[float, int]]:
    """Returns (time, resident bytes) while a command runs.

    Raises:
        CalledProcessError: it failed.
    """
    samples = []
    process = subprocess.Popen(command)
    try:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                samples.append((time.time(), total_rss(watched)))
            except psutil.NoSuchProcess:
                break
            time.sleep(every)
    finally:
        process.terminate()
        code = process.wait()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return samples


def growth(times: list[float], values: list[float], early: float, late: float) -> Growth:
    """Returns the values at two times, each the median of some samples up to it."""

    def at(moment: float) -> float:
        end = int(np.searchsorted(times, moment, side="right"))
        return statistics.median(values[max(0, end - NEIGHBOURS) : max(1, end)])

    return Growth(at(early), at(late))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the run")
    parser.add_argument("--after", type=int, default=50_000, help="steps before the first look")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("--algorithm", default="impala", help="what ours trains (impala)")
    parser.add_argument("flags", nargs="*", help="of torchbeast train, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torchbeast-") as savedir:
        command = [sys.executable, "-m", "torchbeast.cli", "train", arguments.algorithm]
        command += arguments.flags
        command += ["--total_steps", str(arguments.steps), "--savedir", savedir, "--xpid", "run"]
        command += ["--eval_episodes", "0"]
        samples = sample(command)
        fields, rows = read_table(pathlib.Path(savedir) / "run" / "logs.csv")
    log = {name: [float(row[i]) for row in rows] for i, name in enumerate(fields)}
    seen = [
        at for at, step in zip(log["_time"], log["step"], strict=True) if step >= arguments.after
    ]
    if len(seen) < 2:
        sys.exit(f"expected rows of logs.csv after step {arguments.after}; raise --steps")
    early, late = seen[0], seen[-1]
    result: dict[str, object] = {"flags": arguments.flags, "steps": log["step"][-1]}
    for name, times, values in (
        ("first process", log["_time"], log["rss_gb"]),
        ("all processes", [at for at, _ in samples], [rss / 1e9 for _, rss in samples]),
    ):
        found = growth(times, values, early, late)
        print(
            f"{name}: {found.early:.3f} GB after {arguments.after:,} steps, {found.late:.3f} GB "
            f"at the end ({found.percent:+.1f}%)"
        )
        result[name.replace(" ", "_")] = found._asdict() | {"growth_percent": found.percent}
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

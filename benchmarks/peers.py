"""Speed beside a peer: both run in turn (A B A B ...), each as a whole process for a given time.

    python benchmarks/peers.py --seconds 120 --skip 30 --rounds 3 \\
        --peer 'bash /peer/run.sh {seconds}' --peer_log '/peer/runs/*/logs.csv' \\
        -- --env PongNoFrameskip-v4 --num_learners 2

What follows ``--`` are flags of ``torchbeast train ALGORITHM``. The peer is a shell command. In it
and in the path of its log, ``{seconds}`` and ``{run}`` (a name that no other run has) are filled
in. A command with ``{seconds}`` ends by itself; others are ended. Commands start in an empty
folder, so that ``python -m`` does not find a package of ours that has the peer's name: give full
paths. The log, of a path or a pattern, is the newest one written by this run: a table of commas
with the columns ``step`` (agent steps) and ``_time`` (seconds since 1970), as MonoBeast and
TorchBeast write it.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from torchbeast.tools.tables import read_table

GRACE = 60.0  # seconds that a command has to end


class Run(NamedTuple):
    """One run of one program."""

    who: str
    load: float  # of the machine, one minute before it
    steps_per_second: float
    window: float  # seconds


def rate(log: pathlib.Path, start: float, end: float) -> tuple[float, float]:
    """Returns steps per second from ``start`` to ``end``, and the seconds between first and last.

    Raises:
        ValueError: there are not two rows in that time.
    """
    fields, rows = read_table(log)
    if not rows or not {"_time", "step"} <= set(fields):
        raise ValueError(f"expected the columns _time and step in {log}, got {fields}")
    at, step = fields.index("_time"), fields.index("step")
    points = sorted((float(row[at]), float(row[step])) for row in rows)
    inside = [point for point in points if start <= point[0] <= end]
    if len(inside) < 2:
        raise ValueError(f"expected two rows in the time measured, got {len(inside)} in {log}")
    (t0, s0), (t1, s1) = inside[0], inside[-1]
    return (s1 - s0) / (t1 - t0), t1 - t0


def newest_log(pattern: str, since: float) -> pathlib.Path:
    """Returns the log that was written last, after ``since``.

    Raises:
        ValueError: there is none.
    """
    found = [path for path in glob.glob(os.path.expanduser(pattern)) if _written(path) >= since]
    if not found:
        raise ValueError(f"expected a log at {pattern}, written by the run; got none")
    return pathlib.Path(max(found, key=_written))


def _written(path: str) -> float:
    return os.stat(path).st_mtime


def run_for(command: str, seconds: float, ends_itself: bool) -> str:
    """Returns what a shell command printed; it is ended after ``seconds`` if it does not do so."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            command, shell=True, cwd=empty, stdout=output, stderr=output, start_new_session=True
        )
        try:
            process.wait(seconds + (GRACE if ends_itself else 0))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            _signal(process, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def measure(who: str, command: str, log: str, arguments: argparse.Namespace) -> Run:
    """Returns how fast one program ran."""
    fill = {"seconds": f"{arguments.seconds:g}", "run": f"{who}-{time.time_ns()}"}
    ends_itself = "{seconds}" in command
    for name, value in fill.items():
        command, log = (text.replace(f"{{{name}}}", value) for text in (command, log))
    load, began = os.getloadavg()[0], time.time()
    printed = run_for(command, arguments.seconds, ends_itself)
    try:
        speed, window = rate(
            newest_log(log, began), began + arguments.skip, began + arguments.seconds
        )
    except ValueError as error:
        sys.exit(f"{who}: {error}\n{command}\n{printed[-2000:]}")
    print(f"{who:6} {speed:10,.1f} steps/s over {window:5.0f} s   load before {load:.1f}")
    return Run(who, load, speed, window)


def report(runs: list[Run]) -> dict[str, object]:
    """Returns medians and ratios, pair by pair, after printing them."""
    ours, peer = ([r.steps_per_second for r in runs if r.who == who] for who in ("ours", "peer"))
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    medians = [statistics.median(x) for x in (ours, peer, ratios)]
    print(f"median: ours {medians[0]:,.1f}, peer {medians[1]:,.1f} steps/s")
    print(f"ours / peer: {', '.join(f'{x:.2f}' for x in ratios)}; median {medians[2]:.2f}")
    return {
        "runs": [run._asdict() for run in runs],
        "ours": medians[0],
        "peer": medians[1],
        "ratios": ratios,
        "ratio": medians[2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", required=True, help="shell command")
    parser.add_argument("--peer_log", required=True, help="path or pattern of its logs.csv")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each run")
    parser.add_argument("--skip", type=float, default=30.0, help="seconds left out at the start")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("--algorithm", default="impala", help="what ours trains (impala)")
    parser.add_argument("flags", nargs="*", help="of torchbeast train, after --")
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory(prefix="torchbeast-") as savedir:
        ours = [sys.executable, "-m", "torchbeast.cli", "train", arguments.algorithm]
        ours += arguments.flags
        ours += ["--savedir", savedir, "--eval_episodes", "0", "--total_steps", "1G"]
        ours += ["--disable_checkpoint", "--disable_tensorboard", "--xpid"]
        for _ in range(arguments.rounds):
            log = f"{savedir}/{{run}}/logs.csv"
            runs.append(measure("ours", f"exec {shlex.join(ours)} {{run}}", log, arguments))
            runs.append(measure("peer", arguments.peer, arguments.peer_log, arguments))
    result = report(runs)
    if arguments.output is not None:
        result |= {"peer_command": arguments.peer, "flags": arguments.flags}
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Bytes between two machines for each step: a worker and the learner in namespaces of their own.

    sudo python benchmarks/wire.py -- --env PongNoFrameskip-v4 --envs_per_actor 8 --total_steps 40k

Two network namespaces of Linux joined by a virtual cable (``ip`` of iproute2, as root) stand for
two machines: Ray's head and the learner on one, a node with the actors on the other. What follows
``--`` are flags of ``torchbeast train impala``. Counted at the cable's end, in both directions,
headers of all protocols and what Ray says to itself included, from the first row of logs.csv to
the last; in pure frames a step of Atari is 28,224 bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import psutil

from torchbeast.tools.tables import read_table

SPACE, HERE, THERE = "torchbeast", "10.77.31.1", "10.77.31.2"
PORT = 6399


@contextlib.contextmanager
def cable() -> Iterator[None]:
    """Joins a new network namespace to this one."""
    inside = f"ip netns exec {SPACE} ip"
    up = [
        f"ip netns add {SPACE}",
        "ip link add tbwire0 type veth peer name tbwire1",
        f"ip link set tbwire1 netns {SPACE}",
        f"ip addr add {HERE}/24 dev tbwire0",
        "ip link set tbwire0 up",
        f"{inside} addr add {THERE}/24 dev tbwire1",
        f"{inside} link set tbwire1 up",
        f"{inside} link set lo up",
    ]
    try:
        for command in up:
            subprocess.run(command.split(), check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=False)


def counted() -> dict[str, int]:
    """Returns the bytes that came to this end of the cable, and left it."""
    counters = pathlib.Path("/sys/class/net/tbwire0/statistics")
    return {name: int((counters / f"{name}_bytes").read_text()) for name in ("rx", "tx")}


def steps(log: pathlib.Path) -> float:
    """Returns the steps in the last row of a log, 0 if there is none."""
    if not log.exists():
        return 0.0
    fields, rows = read_table(log)
    return float(rows[-1][fields.index("step")]) if rows else 0.0


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started."""
    own = psutil.Process(process.pid)
    for each in [*own.children(recursive=True), own]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("flags", nargs="*", help="of torchbeast train impala, after --")
    arguments = parser.parse_args()
    ray = str(pathlib.Path(sys.executable).with_name("ray"))
    with tempfile.TemporaryDirectory() as folder, cable(), contextlib.ExitStack() as stack:
        token = pathlib.Path(folder, "token")
        token.write_text(secrets.token_hex())
        environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        start = [ray, "start", "--block", "--disable-usage-stats"]
        start += ["--object-store-memory", "200000000"]
        head = ["--head", f"--node-ip-address={HERE}", f"--port={PORT}", "--num-cpus=0"]
        here = [*start, *head, "--include-dashboard=false", f"--temp-dir={folder}/ray"]
        node = [f"--address={HERE}:{PORT}", f"--node-ip-address={THERE}", "--num-cpus=1"]
        for command in (here, ["ip", "netns", "exec", SPACE, *start, *node]):
            started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
            stack.callback(kill, started)
            assert started.stdout is not None
            while b"Ray runtime started" not in (line := started.stdout.readline()):
                assert line, f"{command} did not start"
        command = [sys.executable, "-m", "torchbeast.cli", "train", "impala", *arguments.flags]
        command += ["--runner", "cluster", "--address", f"{HERE}:{PORT}"]
        command += ["--cluster_token", str(token), "--num_actors", "1", "--eval_episodes", "0"]
        command += ["--savedir", folder, "--xpid", "run", "--log_interval", "0"]
        training = subprocess.Popen(command, env=environment)
        log = pathlib.Path(folder, "run", "logs.csv")
        while not steps(log) and training.poll() is None:
            time.sleep(0.1)
        first, before = steps(log), counted()
        last, after = first, before
        while training.poll() is None:
            last, after = steps(log), counted()
            time.sleep(0.1)
        made = last - first
        result = {f"{name}_bytes_per_step": (after[name] - before[name]) / made for name in after}
        print(json.dumps({"steps": made} | result))


if __name__ == "__main__":
    main()

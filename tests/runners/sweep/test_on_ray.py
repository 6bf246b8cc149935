"""A sweep over the nodes of a real Ray cluster on this machine."""

from __future__ import annotations

import contextlib
import csv
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("ray")

from runners.cluster.nodes import Nodes, until

from torchbeast.runners.sweep.progress import read_progress
from torchbeast.tools.checkpoint import has_checkpoint

CODE = """
import pathlib, time
import gymnasium

class Slow(gymnasium.Wrapper):
    def step(self, action):
        if not pathlib.Path({gate!r}).exists():
            time.sleep(0.02)
        return super().step(action)

def make():
    return Slow(gymnasium.make("CartPole-v1"))
"""
SMALL = [
    *["--preset", "none", "--batch_size", "2", "--unroll_length", "5", "--hidden_sizes", "8"],
    *["--total_steps", "400", "--eval_episodes", "1", "--disable_tensorboard", "--seeds", "2"],
    *["--log_interval", "0", "--checkpoint_interval", "0.5"],
]
WAIT = 200.0  # seconds; Ray alone takes minutes on a machine that does more than this


class Swept:
    """A `torchbeast sweep` on a cluster, in a process of its own."""

    def __init__(self, nodes: Nodes, path: pathlib.Path, name: str, *more: str) -> None:
        self.folder = path / name
        self.runs = [self.folder / f"impala-seed{seed}" for seed in (1, 2)]
        self.gate = path / f"{name} gate"
        self.code = path / f"{name}.py"
        self.code.write_text(CODE.format(gate=str(self.gate)))
        where = ["--address", nodes.address, "--cluster_token", str(nodes.token), *more]
        arguments = ["--env", f"{self.code}:make", "--savedir", str(path), "--xpid", name, *SMALL]
        self.command = [sys.executable, "-m", "torchbeast", "sweep", "impala", *arguments, *where]
        self.output = path / f"{name} output"

    @contextlib.contextmanager
    def going_on(self) -> Iterator[subprocess.Popen[bytes]]:
        with self.output.open("ab") as output:
            process = subprocess.Popen(self.command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def learns(self) -> bool:
        """Returns whether a run is on its way, and would not begin anew."""
        begun = [run for run in self.runs if read_progress(run).steps > 20]
        return any(has_checkpoint(run) for run in begun)

    def states(self) -> list[str]:
        with (self.folder / "results.csv").open() as file:
            return [row["state"] for row in csv.DictReader(file)]

    def continued(self) -> int:
        """Returns how many runs went on from a checkpoint."""
        return sum("continues at step" in (run / "console.log").read_text() for run in self.runs)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_on_nodes(tmp_path: pathlib.Path) -> None:
    nodes = Nodes()
    try:
        first = nodes.start()
        too_large = Swept(nodes, tmp_path, "large", "--cpus_per_run", "2")
        refused = subprocess.run(too_large.command, capture_output=True, text=True, timeout=WAIT)
        assert refused.returncode == 2
        assert "--cpus_per_run" in refused.stderr
        a_lost_node_costs_what_came_after_the_checkpoint(nodes, first, tmp_path)
        runs_that_are_stopped_save_and_go_on(nodes, tmp_path)
    finally:
        nodes.close()


def a_lost_node_costs_what_came_after_the_checkpoint(
    nodes: Nodes, first: subprocess.Popen[bytes], tmp_path: pathlib.Path
) -> None:
    far = tmp_path / "far"
    swept = Swept(nodes, tmp_path, "far_away", "--node_dir", str(far), "--retries", "0")
    with swept.going_on() as process:
        until(swept.learns, WAIT, swept.output.read_text)
        assert not any((run / "run.lock").exists() for run in swept.runs)  # they are far away
        assert list(far.glob("*/*/run.lock"))
        nodes.kill(first)
        shutil.rmtree(far)
        swept.code.unlink()  # the new node never had it
        nodes.start()
        swept.gate.touch()
        assert process.wait(WAIT) == 0, swept.output.read_text()
    assert swept.states() == ["done", "done"]
    assert "will be tried again" in swept.output.read_text()
    assert swept.continued() == 1
    assert far.is_dir()
    assert not list(far.iterdir())  # all came back
    assert not list(swept.folder.glob(".*"))


def runs_that_are_stopped_save_and_go_on(nodes: Nodes, tmp_path: pathlib.Path) -> None:
    swept = Swept(nodes, tmp_path, "shared")
    with swept.going_on() as process:
        until(swept.learns, WAIT, swept.output.read_text)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 130, swept.output.read_text()
    assert swept.states() == ["stopped", "stopped"]
    assert sum(has_checkpoint(run) for run in swept.runs) == 1  # there was one slot
    swept.gate.touch()
    with swept.going_on() as process:
        assert process.wait(WAIT) == 0, swept.output.read_text()
    assert swept.states() == ["done", "done"]
    assert swept.continued() == 1

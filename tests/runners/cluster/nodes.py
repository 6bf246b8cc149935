"""Nodes of a Ray cluster as processes of this machine, to be added and killed; and runs on them."""

from __future__ import annotations

import contextlib
import csv
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import psutil
from processes import busy, free_ports

ROOT = pathlib.Path(__file__).parents[3]
STORE = str(100_000_000)  # bytes of shared memory of each node


class Nodes:
    """A cluster with a token: its head, without CPUs, and the nodes that are added."""

    def __init__(self) -> None:
        # Not below pytest's folder: Ray's sockets allow paths of 107 bytes.
        self._temporary = tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True)
        folder = pathlib.Path(self._temporary.name)
        self.token = folder / "token"
        self.token.write_text(secrets.token_hex())
        self._folder = folder
        self._environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        }
        port = free_ports()
        self.address = f"127.0.0.1:{port}"
        self.running: list[subprocess.Popen[bytes]] = []
        head = ["--head", f"--port={port}", "--include-dashboard=false"]
        self.start(*head, f"--temp-dir={folder / 'ray'}", cpus=0)

    def start(self, *flags: str, cpus: int = 1) -> subprocess.Popen[bytes]:
        """Returns a node that is up."""
        command = [str(pathlib.Path(sys.executable).with_name("ray")), "start", "--block"]
        where = flags or (f"--address={self.address}",)
        options = [f"--num-cpus={cpus}", "--object-store-memory", STORE, "--disable-usage-stats"]
        log = self._folder / f"node-{len(self.running)}"
        with log.open("wb") as output:
            node = subprocess.Popen(
                [*command, *where, *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self.running.append(node)

        def up() -> bool:
            assert node.poll() is None, log.read_text()
            return b"Ray runtime started" in log.read_bytes()

        until(up, 90, log.read_text)
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Ends a node and all that runs there as a power cut would."""
        own = psutil.Process(node.pid)
        for process in [*own.children(recursive=True), own]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        node.wait(10)
        self.running.remove(node)

    def close(self) -> None:
        """Ends all nodes."""
        for node in reversed(list(self.running)):
            if node.poll() is None:
                self.kill(node)
        self._temporary.cleanup()

    def train(self, savedir: pathlib.Path, *flags: str, address: bool = True) -> Training:
        """Returns a run on this cluster, just started."""
        where = ["--address", self.address, "--cluster_token", str(self.token)] if address else []
        output = ["--savedir", str(savedir), "--xpid", "run", "--eval_episodes", "0"]
        options = ["--log_interval", "0.2", "--disable_tensorboard", "--runner", "cluster"]
        return Training(savedir / "run", [*flags, *where, *output, *options])


class Training:
    """A `torchbeast train` in a process of its own, watched through what it writes."""

    def __init__(self, path: pathlib.Path, flags: list[str]) -> None:
        self.path = path
        self.output = path.parent / f"output-{secrets.token_hex(4)}"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torchbeast.cli", "train", *flags],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            )

    def rows(self) -> list[dict[str, float]]:
        """Returns the rows of logs.csv so far."""
        return self._table("logs.csv")

    def episodes(self) -> list[dict[str, float]]:
        """Returns the rows of episodes.csv so far."""
        return self._table("episodes.csv")

    def _table(self, name: str) -> list[dict[str, float]]:
        with contextlib.suppress(OSError):
            lines = (self.path / name).read_text().removeprefix("# ").splitlines(True)
            whole = [line for line in lines if line.endswith("\n") and not line.startswith("#")]
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(whole)]
        return []

    def last(self, name: str) -> float:
        """Returns a number of the newest row, 0 if there is none yet."""
        rows = self.rows()
        return rows[-1].get(name, 0.0) if rows else 0.0

    def until(self, condition: Callable[[], Any], seconds: float = 120.0) -> None:
        """Waits for ``condition`` while the run goes on."""

        def met() -> bool:
            code = self.process.poll()
            assert code is None, f"ended with {code}: {self.told()}"
            return bool(condition())

        until(met, seconds, self.told)

    def told(self) -> str:
        """Returns what it printed and logged."""
        text = self.output.read_text()
        with contextlib.suppress(OSError):
            text += (self.path / "out.log").read_text()
        return text

    def end(self, seconds: float = 120.0) -> int:
        """Returns the exit code, after waiting for the end."""
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()

    def interrupt(self) -> int:
        """Returns the exit code after a Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.end(40 * busy())


def until(condition: Callable[[], Any], seconds: float, told: Callable[[], str]) -> None:
    """Waits for ``condition``; fails with what was ``told`` if it takes longer than ``seconds``.

    On a busy machine it may take longer.
    """
    seconds *= busy()
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {seconds:.0f} s: {told()}"
        time.sleep(0.1)

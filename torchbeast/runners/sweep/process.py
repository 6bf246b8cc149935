"""One run of a sweep as a `torchbeast train` process of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from torchbeast.data.process import die_with
from torchbeast.runners.config import RunConfig, to_dict
from torchbeast.tools.files import StorageError, write_atomically

_TAIL = 1 << 13  # bytes of the output in which its last words are looked for


class RunProcess:
    """A `torchbeast train` that works in the directory ``run``, from its checkpoint if it has one.

    It has a session of its own, so that Ctrl-C reaches it through ``stop`` alone. What it prints
    is added to ``console.log``.

    Args:
        run: the directory; what ``config`` says about its place is overruled.
        config: the checked settings.
        cores: the processor cores that it may use, where the system can say so.
        variables: environment variables that differ from this process's.

    Raises:
        StorageError: the directory cannot be written.
    """

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        cores: Sequence[int] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._console = run / "console.log"
        settings = yaml.safe_dump(to_dict(config), sort_keys=False)
        command = [sys.executable, "-m", "torchbeast", "train", config.algo]
        command += ["--preset", "none", "--config", str(run / "config.yaml")]
        command += ["--savedir", str(run.parent), "--xpid", run.name]
        try:
            run.mkdir(parents=True, exist_ok=True)
            write_atomically(run / "config.yaml", settings.encode())
            with self._console.open("ab") as console, _on_cores(cores):
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(variables or {})},
                    start_new_session=True,
                    # No run outlives a sweep that was killed: it saves and leaves.
                    preexec_fn=functools.partial(die_with, os.getpid(), signal.SIGTERM),
                )
        except OSError as error:
            raise StorageError(f"expected to write the run {run}, got: {error}") from error

    def poll(self) -> int | None:
        """Returns the exit code, None while it goes on."""
        return self._process.poll()

    def stop(self) -> None:
        """Asks the run to save and leave."""
        self._process.terminate()  # unlike SIGINT it is heeded while Python still starts

    def kill(self) -> None:
        """Ends the run at once, with what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_words(self) -> str:
        """Returns the last line that the run printed, or what killed it."""
        code = self._process.poll()
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        text = self._console.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        return text.splitlines()[-1] if text else f"exited with code {code}"


@contextlib.contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Puts this process on ``cores`` for a moment: what it starts in it stays there."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

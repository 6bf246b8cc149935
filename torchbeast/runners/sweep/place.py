"""What a sweep asks of the place where its runs go on: this machine's slots, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from torchbeast.runners.config import RunConfig
from torchbeast.runners.sweep.progress import Progress

LOST = -1  # exit code of a run whose machine is gone


class Job(NamedTuple):
    """One run of a sweep."""

    variant: str
    settings: Mapping[str, str]  # what the variant sets, as flags take it
    seed: int
    config: RunConfig  # checked
    path: Path  # its directory


class News(NamedTuple):
    """What became of a run since the last poll."""

    job: Job
    where: str  # "cores 0-3", "cores 2 of node-7"
    progress: Progress
    exit_code: int | None = None  # None: it goes on
    message: str = ""  # why it ended so


class Place(Protocol):
    """Where runs go on. Progress and results of each lie in ``job.path`` once it has ended."""

    def free(self) -> bool:
        """Returns whether ``start`` takes another run."""

    def start(self, job: Job) -> None:
        """Starts a run, or continues it from its last checkpoint."""

    def poll(self) -> list[News]:
        """Returns what became of the runs that go on; does not wait."""

    def stop(self) -> None:
        """Asks every run to save and leave; ``poll`` tells when it has."""

    def close(self) -> None:
        """Ends at once what still goes on."""

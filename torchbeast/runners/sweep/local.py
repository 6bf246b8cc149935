"""The slots of this machine: so many runs at once, each on cores and GPUs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torchbeast.runners.checks import ConfigError
from torchbeast.runners.sweep.cores import described, usable_cores, usable_gpus
from torchbeast.runners.sweep.place import Job, News
from torchbeast.runners.sweep.process import RunProcess
from torchbeast.runners.sweep.progress import read_progress


class Slot(NamedTuple):
    """What one run has to itself."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...]

    def __str__(self) -> str:
        return described(self.cores) + (f", GPU {' '.join(self.gpus)}" if self.gpus else "")


def slots_of_machine(cpus_per_run: int, gpus_per_run: float) -> list[Slot]:
    """Returns as many slots as the cores and GPUs that this process may use are enough for.

    With ``gpus_per_run`` of 1/2 two runs share a GPU.

    Raises:
        ConfigError: they are not enough for one.
    """
    cores = usable_cores()
    if not 1 <= cpus_per_run <= len(cores):
        raise ConfigError(
            f"expected --cpus_per_run of 1 to {len(cores)}, the cores that this process may use, "
            f"got {cpus_per_run}"
        )
    numbers = range(len(cores) // cpus_per_run)
    shares = [tuple(cores[i * cpus_per_run : (i + 1) * cpus_per_run]) for i in numbers]
    if not gpus_per_run:
        return [Slot(share, ()) for share in shares]
    return [Slot(*both) for both in zip(shares, _gpu_shares(gpus_per_run), strict=False)]


def _gpu_shares(gpus_per_run: float) -> list[tuple[str, ...]]:
    gpus = usable_gpus()
    if gpus_per_run > len(gpus):
        raise ConfigError(
            f"expected --gpus_per_run of at most {len(gpus)}, the GPUs that this process may use, "
            f"got {gpus_per_run:g}"
        )
    if gpus_per_run < 1:  # the first run of each GPU before the second of any
        return [(gpu,) for _ in range(int(1 / gpus_per_run + 1e-9)) for gpu in gpus]
    count = int(gpus_per_run)
    return [tuple(gpus[i : i + count]) for i in range(0, len(gpus) - count + 1, count)]


class LocalSlots:
    """Runs as processes of this machine, one in each slot."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._free = list(slots)
        self._running: dict[RunProcess, tuple[Job, Slot]] = {}

    def free(self) -> bool:
        """Returns whether a slot is free."""
        return bool(self._free)

    def start(self, job: Job) -> None:
        """Starts a run in a free slot, or continues it from its last checkpoint.

        Raises:
            StorageError: its directory cannot be written; the slot stays free.
        """
        slot = self._free[0]
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(slot.gpus)} if slot.gpus else {}
        process = RunProcess(job.path, job.config, slot.cores, gpus)
        self._running[process] = job, self._free.pop(0)

    def poll(self) -> list[News]:
        """Returns how far each run is, and which have ended."""
        news = []
        for process, (job, slot) in list(self._running.items()):
            code = process.poll()
            message = process.last_words() if code else ""
            news.append(News(job, str(slot), read_progress(job.path), code, message))
            if code is not None:
                del self._running[process]
                self._free.append(slot)
        return news

    def stop(self) -> None:
        """Asks every run to save and leave."""
        for process in self._running:
            process.stop()

    def close(self) -> None:
        """Ends at once what still goes on."""
        for process in self._running:
            process.kill()
        self._running.clear()

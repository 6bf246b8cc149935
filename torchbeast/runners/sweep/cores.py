"""The processor cores and GPUs that runs are given."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from torchbeast.tools.run_directory import RunLocked, lock_file


def usable_cores() -> list[int]:
    """Returns the cores that this process may use; threads of one physical core side by side."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0), key=_physical)


def usable_gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(torch.cuda.device_count())]


@contextlib.contextmanager
def claimed_cores(count: int) -> Iterator[list[int]]:
    """Gives ``count`` cores that no other holder of this has on the machine; [] if too few are.

    For places whose scheduler counts cores without saying which.
    """
    with contextlib.ExitStack() as held:
        mine: list[int] = []
        for core in usable_cores():
            if len(mine) < count and _claim(core, held):
                mine.append(core)
        yield mine if len(mine) == count else []


def described(cores: Sequence[int]) -> str:
    """Returns cores as people write them: ``cores 0-3 8``; "" if there are none."""
    parts: list[str] = []
    ordered = sorted(cores)
    for i, core in enumerate(ordered):
        if i and core == ordered[i - 1] + 1:
            parts[-1] = f"{parts[-1].split('-')[0]}-{core}"
        else:
            parts.append(str(core))
    return f"core{'s' if len(cores) > 1 else ''} {' '.join(parts)}" if parts else ""


def _claim(core: int, held: contextlib.ExitStack) -> bool:
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = Path(tempfile.gettempdir()) / f"torchbeast-{user}-core-{core}.lock"
    try:
        held.callback(os.close, lock_file(path))
    except (RunLocked, OSError):
        return False
    return True


def _physical(core: int) -> tuple[int, int, int]:
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        package = int((topology / "physical_package_id").read_text())
        return package, int((topology / "core_id").read_text()), core
    except (OSError, ValueError):
        return 0, core, core

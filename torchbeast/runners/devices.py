"""Which device each learner computes on, and what their gradients travel by."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from torchbeast.runners.config import RunConfig, SystemConfig


def device(system: SystemConfig, rank: int = 0) -> torch.device:
    """Returns where learner ``rank`` computes.

    Raises:
        ValueError: there is no such device.
    """
    return choose_device(system, "device", rank, torch.cuda.device_count())


def inference_device(system: SystemConfig, rank: int = 0) -> torch.device:
    """Returns where the central inference of learner ``rank`` computes.

    Raises:
        ValueError: there is no such device.
    """
    flag = "device" if system.inference_device == "auto" else "inference_device"
    return choose_device(system, flag, rank, torch.cuda.device_count())


def choose_device(system: SystemConfig, flag: str, rank: int, gpus: int) -> torch.device:
    """Returns what a flag means for learner ``rank`` on a machine with so many GPUs.

    ``auto`` and ``cuda`` give each of several learners a GPU of its own while there are enough:
    the ranks of one machine follow each other.

    Raises:
        ValueError: there is no such device.
    """
    name = "cpu" if system.disable_cuda else getattr(system, flag)
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    if name in ("auto", "cuda") and gpus:
        several = system.num_learners > 1
        return torch.device("cuda", rank % gpus) if several else torch.device("cuda")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ValueError(f"expected --{flag} auto, cpu, cuda or cuda:N, got {name}") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= gpus:
        raise ValueError(
            f"expected one of {gpus} CUDA devices, got --{flag} {name}; use --{flag} auto"
        )
    return chosen


def place(where: torch.device) -> str:
    """Returns a name of the hardware behind a device, by which no other has it on any machine."""
    if where.type != "cuda":
        return where.type
    return f"cuda {torch.cuda.get_device_properties(where).uuid}"


def choose_backend(places: Sequence[str]) -> str:
    """Returns what torch.distributed connects learners at these places by."""
    # NCCL refuses two ranks on one GPU, and knows no other devices; gloo takes tensors of both.
    alone = len(set(places)) == len(places) and all(p.startswith("cuda") for p in places)
    return "cpu:gloo,cuda:nccl" if alone else "gloo"


def learners_here(config: RunConfig) -> int:
    """Returns how many learners share this machine: torchrun says it; a cluster spreads them."""
    if config.cluster.runner == "cluster" and config.cluster.address is not None:
        return 1
    return int(os.environ.get("LOCAL_WORLD_SIZE", config.system.num_learners))

"""The ancestor's checkpoint, ``model.tar``: one file with four parts."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchbeast.tools.archive import (
    CheckpointError,
    reason_of,
    refuse_unsafe_environment,
    torch_bytes,
)
from torchbeast.tools.state import plain

_PARTS = ("model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "flags")


def model_tar_bytes(
    step: int,
    model: dict[str, Tensor],
    optim: dict[str, Any],
    scheduler: dict[str, Any],
    flags: dict[str, Any],
) -> memoryview:
    """Returns ``model.tar``: the ancestor's four parts, and ``stats`` with the step."""
    model = {name: x.detach().to("cpu", copy=True) for name, x in model.items()}
    return torch_bytes(
        {
            "model_state_dict": model,
            "optimizer_state_dict": plain(optim, where="optim"),
            "scheduler_state_dict": plain(scheduler, where="scheduler"),
            "flags": plain(flags, arrays_to_lists=True, where="flags"),
            "stats": {"step": step},
        }
    )


def load_model_tar(path: Path) -> dict[str, Any]:
    """Returns the parts of a ``model.tar``, ours or the ancestor's; ``flags`` is a dict.

    Raises:
        CheckpointError: it is truncated, foreign, or holds more than data.
    """
    refuse_unsafe_environment()
    try:
        data = io.BytesIO(path.read_bytes())
        # The ancestor's flags are a Namespace: a bag of attributes, whose making runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            tar = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"expected a whole model.tar that holds only data, got {path}: {reason_of(error)}; "
            f"take an earlier copy, or save it anew with plain numbers in it"
        ) from error
    missing = [part for part in _PARTS if not isinstance(tar, dict) or part not in tar]
    if missing:
        raise CheckpointError(
            f"expected the parts {', '.join(_PARTS)} in {path}, got none of {', '.join(missing)}; "
            f"is it a checkpoint of another program?"
        )
    if not isinstance(tar["flags"], dict):
        tar["flags"] = plain(tar["flags"], where="flags")
    return tar

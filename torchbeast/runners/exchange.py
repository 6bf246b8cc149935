"""What learners tell each other besides gradients: what to do, what they start from, reports."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from torchbeast.algorithms.ranks import connected, sum_over_ranks
from torchbeast.envs.vector import Episode
from torchbeast.tools.state import plain

GO, STOP, WAIT = 0, 1, 2


class Turn(NamedTuple):
    """What rank 0 tells all learners to do next."""

    action: int = GO  # one more update; STOP: leave; WAIT: rank 0 is busy, another turn follows
    steps: int = 0  # environment steps so far, which schedules go by
    report: bool = False  # first tell rank 0 what happened


def broadcast_turn(turn: Turn | None = None) -> Turn:
    """Returns the next turn: what rank 0 gives. Raises Disconnected."""
    told = torch.tensor(turn or Turn(), dtype=torch.int64)
    with connected():
        dist.broadcast(told, 0)
    action, steps, report = told.tolist()
    return Turn(action, steps, bool(report))


class Report(NamedTuple):
    """What happened to a learner since it last told rank 0."""

    episodes: Sequence[Episode] = ()  # that ended; ``env`` counts over all learners
    warnings: Sequence[tuple[int, str]] = ()  # level and text


def gather_reports(own: Report | None = None) -> dict[int, Report]:
    """Returns the reports of all that have one, by their rank, on rank 0; nothing on others.

    Raises:
        Disconnected: a learner is gone.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    text = json.dumps(own, default=_plain_number).encode() if own and any(own) else b""
    lengths = torch.zeros(size, dtype=torch.int64)
    lengths[rank] = len(text)
    with connected():
        dist.all_reduce(lengths)
        longest = int(lengths.max())
        if not longest:
            return {}
        padded = torch.frombuffer(bytearray(text.ljust(longest)), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in range(size)] if rank == 0 else None
        dist.gather(padded, parts)
    found = {}
    for other, (part, length) in enumerate(zip(parts or (), lengths.tolist(), strict=False)):
        if length:
            episodes, warnings = json.loads(part.numpy().tobytes())
            found[other] = Report([Episode(*episode) for episode in episodes], warnings)
    return found


def _plain_number(value: Any) -> Any:
    return value.item()  # of NumPy


def await_all() -> None:
    """Returns when all learners have come here. Raises Disconnected."""
    sum_over_ranks(torch.zeros(1))


def broadcast_state(state: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns the plain data that rank 0 gives, on the CPU. Raises Disconnected."""
    file = io.BytesIO()
    if state is not None:
        torch.save(plain(state), file)
    size = torch.tensor(file.tell())
    with connected():
        dist.broadcast(size, 0)
        raw = torch.empty(int(size), dtype=torch.uint8)
        if state is not None:
            raw.copy_(torch.frombuffer(file.getbuffer(), dtype=torch.uint8))
        dist.broadcast(raw, 0)
    return torch.load(io.BytesIO(raw.numpy().tobytes()), map_location="cpu", weights_only=True)

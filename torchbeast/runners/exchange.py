"""What learners tell each other besides gradients: what to do, what they start from, episodes."""

from __future__ import annotations

import io
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
    episodes: bool = False  # first tell rank 0 what episodes ended


def broadcast_turn(turn: Turn | None = None) -> Turn:
    """Returns the next turn: what rank 0 gives. Raises Disconnected."""
    told = torch.tensor(turn or Turn(), dtype=torch.int64)
    with connected():
        dist.broadcast(told, 0)
    action, steps, episodes = told.tolist()
    return Turn(action, steps, bool(episodes))


def gather_episodes(own: list[Episode]) -> list[Episode]:
    """Returns the episodes of all learners on rank 0, nothing on others. Raises Disconnected."""
    rank, size = dist.get_rank(), dist.get_world_size()
    counts = torch.zeros(size, dtype=torch.int64)
    counts[rank] = len(own)
    with connected():
        dist.all_reduce(counts)
        most = int(counts.max())
        if not most:
            return []
        rows = torch.zeros(most, len(Episode._fields), dtype=torch.float64)
        if own:
            rows[: len(own)] = torch.tensor(own, dtype=torch.float64)
        parts = [torch.empty_like(rows) for _ in range(size)] if rank == 0 else None
        dist.gather(rows, parts)
    return [
        Episode(int(env), total, int(length), bool(truncated))
        for part, count in zip(parts or (), counts.tolist(), strict=False)
        for env, total, length, truncated in part[:count].tolist()
    ]


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

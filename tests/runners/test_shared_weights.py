"""Weights in shared memory: no reader sees half of two versions."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from torchbeast.data.process import Worker
from torchbeast.loops.weights import SharedWeights


class Constant(nn.Module):
    """Parameters and a buffer that all hold one number; of odd sizes and types."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.flag = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
        self.weight = nn.Parameter(torch.zeros(numbers))
        self.coarse = nn.Parameter(torch.zeros(7, 5, dtype=torch.bfloat16))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def fill(self, value: int) -> None:
        with torch.no_grad():
            for x in [*self.parameters(), *self.buffers()]:
                x.fill_(value)

    def values(self) -> set[float]:
        found = set()
        for x in [*self.parameters(), *self.buffers()]:
            x = x.detach()
            found |= set(x.flatten().tolist() if x.numel() < 100 else np.unique(x.numpy()))
        return {float(x) for x in found}


def write(connection, weights, numbers):
    model = Constant(numbers)
    version = 0
    while not connection.poll():
        version += 1
        model.fill(version % 100)  # int8 and bfloat16 hold these exactly
        weights.publish(model, version)
    connection.send(version)


def test_a_reader_never_sees_a_torn_version():
    numbers = 50_000
    weights = SharedWeights(Constant(numbers))
    writer = Worker(write, (weights, numbers))
    model = Constant(numbers)
    try:
        while weights.fetch(model) == 0:
            time.sleep(0.01)
        end = time.monotonic() + 2.0
        seen = [0]
        while time.monotonic() < end or len(set(seen)) <= 20:
            version = weights.fetch(model)
            assert model.values() == {version % 100}
            assert version >= seen[-1]
            seen.append(version)
        writer.connection.send("stop")
        last = writer.connection.recv()
    finally:
        writer.kill()
    assert weights.fetch(model) == last
    assert model.values() == {last % 100}


def test_versions_may_jump_stay_or_go_back():
    model, other = Constant(10), Constant(10)
    weights = SharedWeights(model)
    for i, version in enumerate([40, 42, 42, 7, 0, 1]):
        model.fill(i)
        weights.publish(model, version)
        assert weights.fetch(other) == version
        assert other.values() == {i}

"""Weights: the newest parameters, with a version. They go from the learner to the actors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import nn

from torchbeast.data.shared import SharedBlock

ANNOUNCED, NEWEST, VERSION = 0, 1, 2  # words of shared weights; one version for each buffer


class Weights(Protocol):
    """The newest weights of a model; the version counts updates."""

    def publish(self, model: nn.Module, version: int) -> None:
        """Makes the weights of ``model`` the newest, as ``version``."""

    def fetch(self, model: nn.Module) -> int:
        """Returns the newest version after bringing ``model`` up to it."""


class LocalWeights:
    """Weights of a model that acts and learns in one process: nothing is copied."""

    def __init__(self) -> None:
        self._version = 0

    def publish(self, model: nn.Module, version: int) -> None:
        """Notes that ``model`` is now at ``version``."""
        self._version = version

    def fetch(self, model: nn.Module) -> int:
        """Returns the version of ``model``, which is the learner's own."""
        return self._version


class SharedWeights:
    """Weights in shared memory, in two buffers, so that no reader sees half of two versions.

    The writer numbers what it publishes. It announces n + 1, fills the buffer that n does not use
    and notes its version, then names n + 1 the newest. A reader whose buffer was announced again
    while it copied starts over; that takes two updates during one copy, so readers hardly ever do.
    """

    def __init__(self, model: nn.Module) -> None:
        self._size = sum(x.nbytes for x in _tensors(model))
        self._block = SharedBlock(64 + 2 * self._size)
        self._filled: nn.Module | None = None  # in this process, last
        self._filled_with = (0, 0)  # number and version
        self.publish(model, 0)

    def publish(self, model: nn.Module, version: int) -> None:
        """Makes the weights of ``model`` the newest. One process only may call it."""
        self.put(raw(model), version)

    def put(self, parts: Iterable[np.ndarray], version: int) -> None:
        """Makes bytes, as ``raw`` gives them, the newest weights; as ``publish``."""
        words, buffers = self._views()
        number = int(words[NEWEST]) + 1  # not the version, which may stay or jump on a resume
        words[ANNOUNCED] = number
        offset = 0
        target = buffers[number % 2]
        for part in parts:
            target[offset : offset + part.size] = part
            offset += part.size
        words[VERSION + number % 2] = version
        words[NEWEST] = number

    def fetch(self, model: nn.Module) -> int:
        """Returns the newest version after copying it into ``model``, if that has an older one."""
        words, buffers = self._views()
        if self._filled is model and self._filled_with[0] == int(words[NEWEST]):
            return self._filled_with[1]
        while True:
            number = int(words[NEWEST])
            version = int(words[VERSION + number % 2])
            copy = buffers[number % 2].copy()
            if int(words[ANNOUNCED]) < number + 2:
                break
        offset = 0
        for x in _tensors(model):
            end = offset + x.nbytes
            newest = torch.from_numpy(copy[offset:end]).view(x.dtype).view(x.shape)
            with torch.no_grad():
                x.copy_(newest)
            offset = end
        self._filled, self._filled_with = model, (number, version)
        return version

    def _views(self) -> tuple[np.ndarray, list[np.ndarray]]:
        words = np.frombuffer(self._block.memory, np.int64, 4)
        both = np.frombuffer(self._block.memory, np.uint8, 2 * self._size, offset=64)
        return words, [both[: self._size], both[self._size :]]


def raw(model: nn.Module) -> Iterator[np.ndarray]:
    """Yields the bytes of each of the model's parameters and buffers, uint8 [n]."""
    for x in _tensors(model):
        yield x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]

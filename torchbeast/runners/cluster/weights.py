"""Weights that go through Ray's object store: put there once per version, fetched once per node."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from torchbeast.loops.weights import Weights, raw


class ObjectWeights(Weights):
    """The learner's end: publishing costs nothing until somebody acts with the new version."""

    def __init__(self, model: nn.Module) -> None:
        self.version = 0
        self.num_bytes = sum(part.nbytes for part in raw(model))
        self._model = model
        self._object: Any = None  # Ray's reference to the bytes of the newest version

    def publish(self, model: nn.Module, version: int) -> None:
        """Makes the weights of ``model`` the newest; they must stay so until the next call."""
        self._model, self.version = model, version
        self._object = None

    def fetch(self, model: nn.Module) -> int:
        """Raises ValueError: workers are sent the weights."""
        raise ValueError("expected workers to be sent their weights, got one that asks for them")

    def newest(self) -> Any:
        """Returns Ray's reference to the newest weights as bytes, uint8 [n]."""
        import ray

        if self._object is None:
            self._object = ray.put(np.concatenate(list(raw(self._model))))
        return self._object

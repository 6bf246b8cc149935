"""Learning: the loop that takes batches, updates and publishes."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbeast.algorithms.base import Algorithm
from torchbeast.algorithms.ranks import num_ranks
from torchbeast.data.buffer import Buffer
from torchbeast.loops.weights import Weights


class Learner:
    """Takes batches, updates, publishes. Never acts.

    ``version`` counts the updates.
    """

    def __init__(self, algorithm: Algorithm, buffer: Buffer, weights: Weights) -> None:
        self.algorithm = algorithm
        self.buffer = buffer
        self.weights = weights
        self.version = 0
        self._steps_before = 0
        self._metrics: list[dict[str, Tensor]] = []

    @property
    def steps(self) -> int:
        """Returns the environment steps of the run so far, over all ranks."""
        return self._steps_before + self.buffer.steps * num_ranks()

    def resume(self, steps: int, version: int) -> None:
        """Counts on from where a checkpoint was made, and publishes the loaded weights."""
        self._steps_before = steps - self.buffer.steps
        self.version = version
        self.weights.publish(self.algorithm.model, version)

    def step(self, steps: int | None = None) -> None:
        """Learns from one batch, which must be ready.

        ``steps`` is what schedules go by, the same for all learners; None: this one's own count.
        """
        steps = self.steps if steps is None else steps  # before those of this batch
        batch = self.buffer.get()
        lag = (self.version - batch.version).float().mean()
        on_device = batch.to(self.algorithm.device)
        update = self.algorithm.update(on_device, steps)
        self.algorithm.observe(on_device)
        self.buffer.feedback(update.priority)
        self.version += 1
        self.weights.publish(self.algorithm.model, self.version)
        metrics = {name: value.detach() for name, value in update.metrics.items()}
        self._metrics.append(metrics | {"policy_lag": lag})

    def metrics(self) -> dict[str, float]:
        """Returns the means of the metrics since the last call; {} if there was no update."""
        taken, self._metrics = self._metrics, []
        if not taken:
            return {}
        return {
            name: torch.stack([m[name].float().cpu() for m in taken]).mean().item()
            for name in taken[0]
        }

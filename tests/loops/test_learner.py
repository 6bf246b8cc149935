"""Learning: counters, metrics, and gradients that are not finite."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from torch import nn

from torchbeast.algorithms import impala
from torchbeast.algorithms.base import MAX_SKIPPED_UPDATES, Diverged
from torchbeast.data import EnvSpec
from torchbeast.nets import NetworkConfig


def make() -> impala.Impala:
    spec = EnvSpec(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    torch.manual_seed(0)
    return impala.Impala(impala.Config(optimizer="adam"), NetworkConfig(), spec, 1000)


def step(
    algorithm: impala.Impala, factor: float = 1.0, max_norm: float | None = None
) -> torch.Tensor:
    loss = sum((p**2).sum() for p in algorithm.model.parameters()) * factor
    return algorithm.gradient_step(loss, algorithm.optimizer, max_norm)


def state(algorithm: impala.Impala) -> list[torch.Tensor]:
    optimizer = algorithm.optimizer.state_dict()["state"].values()
    moments = [x.clone() for s in optimizer for x in s.values()]
    return [p.detach().clone() for p in algorithm.model.parameters()] + moments


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    algorithm = make()
    step(algorithm)
    before = state(algorithm)
    assert not torch.isfinite(step(algorithm, bad))
    assert all(map(torch.equal, before, state(algorithm)))
    step(algorithm)
    assert not all(map(torch.equal, before, state(algorithm)))


def test_many_in_a_row_are_a_divergence_and_one_good_one_starts_anew() -> None:
    algorithm = make()
    for _ in range(2):
        for _ in range(MAX_SKIPPED_UPDATES - 1):
            step(algorithm, float("nan"))
        step(algorithm)
    before = state(algorithm)
    for _ in range(MAX_SKIPPED_UPDATES - 1):
        step(algorithm, float("nan"))
    with pytest.raises(Diverged, match="--learning_rate"):
        step(algorithm, float("nan"))
    assert all(map(torch.equal, before, state(algorithm)))


def test_the_norm_is_clipped() -> None:
    algorithm = make()
    norm = step(algorithm, max_norm=0.5)
    grads = [p.grad for p in algorithm.model.parameters()]
    assert norm > 1
    assert nn.utils.get_total_norm(grads) == pytest.approx(0.5, rel=1e-4)

"""Weights that a user has frozen stay as they are, and the others learn."""

from __future__ import annotations

import pathlib

import pytest
import torch

from torchbeast import algorithms, envs
from torchbeast.loops.learner import Learner
from torchbeast.loops.weights import LocalWeights
from torchbeast.nets import NetworkConfig
from torchbeast.runners.config import default_config
from torchbeast.runners.local import LocalSource

ENCODER = """
from torch import nn

class Encoder(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.known = nn.Linear(spec.observation.shape[0], 8).requires_grad_(False)
        self.new = nn.Linear(8, 8)
        self.out_features = 8

    def forward(self, x):
        return self.new(self.known(x.float()).relu())
"""


@pytest.mark.parametrize(
    ("name", "env"), [("impala", "CartPole-v1"), ("dqn", "CartPole-v1"), ("sac", "Pendulum-v1")]
)
def test_frozen_weights(tmp_path: pathlib.Path, name: str, env: str) -> None:
    path = tmp_path / "net.py"
    path.write_text(ENCODER)
    config = default_config(name).algorithm
    replay = {"min_replay_size": 20, "replay_size": 100} if hasattr(config, "replay_size") else {}
    settings = type(config)(unroll_length=2, batch_size=4, **replay)
    where = envs.EnvConfig(env)
    algorithm = algorithms.find(name)(
        settings, NetworkConfig(network=f"{path}:Encoder"), envs.spec(where), 1000
    )
    weights = LocalWeights()
    source = LocalSource(algorithm, envs.make(where, 4, 0), weights)
    learner = Learner(algorithm, source.buffer, weights)
    before = {k: v.clone() for k, v in algorithm.model.named_parameters()}
    for _ in range(3):
        source.fill()
        learner.step()
    changed = {k for k, v in algorithm.model.named_parameters() if not torch.equal(v, before[k])}
    assert {"encoder.new.weight", "encoder.new.bias"} <= changed
    assert not {k for k in changed if "known" in k}

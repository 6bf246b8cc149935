"""Two learners with half the batch each make the steps of one with all of it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchbeast import envs
from torchbeast.algorithms import dqn, impala
from torchbeast.data import Rollout, tree_map
from torchbeast.data.process import Worker
from torchbeast.nets import NetworkConfig
from torchbeast.runners.build import build, make_algorithm
from torchbeast.runners.checks import checked
from torchbeast.runners.config import RunConfig, SystemConfig
from torchbeast.runners.meeting import Meeting

B, UPDATES = 8, 4
LEARNED: dict[str, Any] = {  # the loss is a sum over the batch; and a mean
    "impala": (
        impala.Config(unroll_length=7, batch_size=B, learning_rate=0.01),
        NetworkConfig(use_lstm=True),
    ),
    "dqn": (
        dqn.Config(batch_size=B, learning_rate=0.01, min_replay_size=64, target_interval=20),
        NetworkConfig(),
    ),
}


def config_of(name: str) -> RunConfig:
    learned, network = LEARNED[name]
    system = SystemConfig(num_envs=B, torch_threads=1)
    return checked(RunConfig("", envs.EnvConfig("MinAtar/Breakout-v1"), learned, network, system))


def batches(config: RunConfig) -> Iterator[Rollout]:
    """Gives what a run would learn from, in float64; the same in every process."""
    _, source, _ = build(config, 0)
    try:
        for _ in range(UPDATES):
            source.fill()
            batch = Rollout(*tree_map(torch.clone, tuple(source.buffer.get())))
            source.buffer.feedback(None)
            yield tree_map(lambda x: x.double() if x.is_floating_point() else x, batch)
    finally:
        source.close()


def weights(name: str, rank: int, size: int) -> list[Tensor]:
    """Returns the weights before, and after some updates with one rank's columns."""
    torch.set_num_threads(1)
    config = config_of(name)
    algorithm = make_algorithm(config, envs.spec(config.env), size)
    for part in vars(algorithm).values():
        if isinstance(part, nn.Module):
            part.double()

    def flat() -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in algorithm.model.parameters()])

    before = flat().clone()
    share = slice(rank * B // size, (rank + 1) * B // size)
    for i, batch in enumerate(batches(config)):
        algorithm.update(batch.columns(share), i * B)
    return [before, flat()]


def learn_half(connection: Connection, address: str, name: str) -> None:
    """Is learner 1."""
    meeting = Meeting(address, 1, 2)
    meeting.join(torch.device("cpu"))
    connection.send([x.tolist() for x in weights(name, 1, 2)])
    meeting.close()


@pytest.mark.parametrize("name", LEARNED)
def test_two_learners_with_half_the_batch_equal_one_with_all(
    tmp_path: pathlib.Path, name: str
) -> None:
    threads = torch.get_num_threads()
    address = (tmp_path / "store").as_uri()
    meeting = Meeting(address, 0, 2)
    worker = Worker(learn_half, (address, name))
    try:
        before, alone = weights(name, 0, 1)
        while not meeting.admit():
            assert worker.alive
        meeting.join(torch.device("cpu"))
        here = weights(name, 0, 2)[1]
        assert worker.connection.poll(60)
        there = torch.tensor(worker.connection.recv()[1], dtype=torch.float64)
    finally:
        meeting.close()
        worker.kill()
        torch.set_num_threads(threads)
    assert torch.equal(here, there)
    difference, moved = (here - alone).abs().max(), (alone - before).abs().max()
    print(f"{name}: moved by {moved:.2g}, two learners differ from one by {difference:.2g}")
    assert moved > 0.01
    assert difference < 1e-9

"""Which device each learner has, and what connects them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from torchbeast.commands.flags import train_config
from torchbeast.runners.config import ClusterConfig, SystemConfig
from torchbeast.runners.devices import choose_backend, choose_device, learners_here, place


@pytest.mark.parametrize(
    ("flags", "gpus", "expected"),
    [
        ({}, 0, ["cpu"] * 4),
        ({}, 1, ["cuda:0"] * 4),
        ({}, 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ({}, 8, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ({"device": "cuda"}, 8, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ({"device": "cuda:1"}, 8, ["cuda:1"] * 4),
        ({"device": "cpu"}, 8, ["cpu"] * 4),
        ({"disable_cuda": True}, 8, ["cpu"] * 4),
    ],
)
def test_each_learner_has_a_gpu_of_its_own_if_there_are_enough(
    flags: dict[str, str], gpus: int, expected: list[str]
) -> None:
    system = SystemConfig(num_learners=4, **flags)  # type: ignore[arg-type]
    assert [str(choose_device(system, "device", rank, gpus)) for rank in range(4)] == expected
    unique = gpus == 8 and len(set(expected)) == 4
    assert choose_backend(expected) == ("cpu:gloo,cuda:nccl" if unique else "gloo")


def test_one_learner_has_the_current_gpu() -> None:
    assert choose_device(SystemConfig(), "device", 0, 2) == torch.device("cuda")


@pytest.mark.parametrize(("name", "gpus"), [("cuda:2", 2), ("cuda", 0), ("tpu?", 1)])
def test_a_device_that_is_not_there_is_refused(name: str, gpus: int) -> None:
    with pytest.raises(ValueError, match=f"--device .*{'tpu' if 'tpu' in name else name}"):
        choose_device(SystemConfig(device=name), "device", 0, gpus)


def test_nccl_connects_gpus_of_several_machines_only_if_none_is_shared() -> None:
    assert choose_backend(["cuda a", "cuda b", "cuda c"]) == "cpu:gloo,cuda:nccl"
    assert choose_backend(["cuda a", "cuda a"]) == "gloo"
    assert choose_backend(["cuda a", "cpu"]) == "gloo"
    assert place(torch.device("cpu")) == "cpu"


def test_torchrun_tells_how_many_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config("impala", "", ["--env", "CartPole-v1", "--num_learners", "4"])
    assert config is not None
    assert learners_here(config) == 4
    elsewhere = ClusterConfig(runner="cluster", address="host:1")
    assert learners_here(dataclasses.replace(config, cluster=elsewhere)) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert learners_here(config) == 2

"""How many threads a learner computes with, where nobody said."""

from __future__ import annotations

import pytest

from torchbeast import envs
from torchbeast.commands.flags import train_config
from torchbeast.runners import build
from torchbeast.runners.jobs import make_algorithm

ACTORS = ("--num_actors", "2")


@pytest.mark.parametrize(
    ("algorithm", "flags", "threads"),
    [
        ("impala", (), 8),
        ("impala", ACTORS, 4),
        ("impala", ("--num_learners", "2"), 4),
        ("ppo", ACTORS, 8),  # its actors wait while it learns
        ("dqn", ACTORS, 8),  # the same: acting is never ahead of the replay ratio
        ("impala", (*ACTORS, "--env", "CartPole-v1"), 1),  # a small network
    ],
)
def test_threads_leave_cores_to_actors_that_act_meanwhile(
    monkeypatch: pytest.MonkeyPatch, algorithm: str, flags: tuple[str, ...], threads: int
) -> None:
    monkeypatch.setattr(build, "cores", lambda: 8)
    config = train_config(algorithm, "", list(flags))
    assert config is not None
    made = make_algorithm(config, envs.spec(config.env), config.system.num_learners)
    assert build._threads(config, made) == threads

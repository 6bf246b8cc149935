"""Evaluation: one full game of each environment, and training does not notice."""

from __future__ import annotations

import pytest
import torch
from probes import CountingEnv

from torchbeast import envs
from torchbeast.algorithms import impala
from torchbeast.loops.evaluate import evaluate
from torchbeast.nets import NetworkConfig


def make(use_lstm: bool = False) -> tuple[impala.Impala, envs.EnvConfig]:
    config = envs.EnvConfig(factory=CountingEnv)
    torch.manual_seed(0)
    network = NetworkConfig(use_lstm=use_lstm, hidden_sizes=(8,))
    return impala.Impala(impala.Config(), network, envs.spec(config), 100), config


@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("explore", [False, True])
def test_first_games_count_and_random_numbers_stay(use_lstm: bool, explore: bool) -> None:
    algorithm, config = make(use_lstm)
    before = torch.get_rng_state()
    rows = []
    games = evaluate(algorithm, envs.make(config, 3, 0), explore, on_row=lambda: rows.append(0))
    assert torch.equal(before, torch.get_rng_state())
    assert [(g.env, g.length, g.episode_return) for g in games] == [(i, 3, 6.0) for i in range(3)]
    assert len(rows) == 3


def test_games_that_take_too_long_are_left_out() -> None:
    algorithm, config = make()
    assert evaluate(algorithm, envs.make(config, 2, 0), max_steps=2) == []


def test_the_mode_plays_and_with_explore_a_sample() -> None:
    algorithm, config = make()
    seen = set()

    class Spy(CountingEnv):
        def step(self, action):  # type: ignore[no-untyped-def]
            seen.add(int(action))
            return super().step(action)

    config = envs.EnvConfig(factory=Spy)
    with torch.no_grad():
        algorithm.model.policy.weight.zero_()
        bias = next(p for n, p in algorithm.model.policy.named_parameters() if n.endswith("bias"))
        bias.copy_(torch.tensor([0.0, 0.5, 0.1]))
    evaluate(algorithm, envs.make(config, 8, 0), False)
    assert seen == {1}
    evaluate(algorithm, envs.make(config, 8, 0), True)
    assert seen == {0, 1, 2}

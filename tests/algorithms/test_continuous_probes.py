"""Small problems with a known answer for policies that follow learned values (the ladder, T2)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from algorithms.test_q_probes import GAMMA, PROBES, blind_value
from algorithms.test_q_probes import one_thread as one_thread  # pytest finds it here
from probes import Column, Regulator
from torch import Tensor

from torchbeast import algorithms, envs
from torchbeast.algorithms import d4pg, ddpg, sac, sac_discrete, td3
from torchbeast.data import Tree, zero_rows
from torchbeast.loops.learner import Learner
from torchbeast.loops.weights import LocalWeights
from torchbeast.nets import NetworkConfig
from torchbeast.runners.local import LocalSource

SHARED: dict[str, Any] = dict(
    batch_size=64,
    replay_ratio=64.0,  # an update per step
    replay_size=4_000,
    min_replay_size=200,
    discounting=GAMMA,
    learning_rate=0.003,
    learning_rate_schedule="linear",
    target_rate=0.02,
)
SETTINGS: dict[str, Any] = {
    "ddpg": ddpg.Config(**SHARED),
    "td3": td3.Config(**SHARED),
    "sac": sac.Config(**SHARED, initial_temperature=0.1),
    "d4pg": d4pg.Config(**SHARED, n_step=1, value_min=-6.0, value_max=1.0),
    "sac_discrete": sac_discrete.Config(**SHARED),
}
BOX = pytest.mark.parametrize("name", [name for name in SETTINGS if name != "sac_discrete"])
EVERY = pytest.mark.parametrize("name", SETTINGS)
NETWORK = NetworkConfig(hidden_sizes=(64, 64), activation="relu")
SMALL = NetworkConfig(hidden_sizes=(32,), activation="relu")
SEED = 0
# What becomes of a constant reward: fast targets, no entropy to speak of, and the right atoms.
CONSTANT: dict[str, Any] = dict(target_rate=0.2, learning_rate=0.005)
VALUES: dict[str, Any] = {
    "sac": dict(temperature=0.001),
    "sac_discrete": dict(temperature=0.001),
    "d4pg": dict(value_min=-2.0, value_max=12.0, num_atoms=57),
}


def solve(
    name: str,
    probe: str,
    kwargs: dict[str, Any],
    steps: int,
    network: NetworkConfig = NETWORK,
    **changes: Any,
) -> tuple[Any, dict[str, float]]:
    """Returns what an algorithm made of a probe, and the metrics of the last quarter."""
    config = envs.EnvConfig(f"{PROBES}:{probe}", kwargs)
    settings = dataclasses.replace(SETTINGS[name], **changes)
    torch.manual_seed(SEED)
    algorithm = algorithms.find(name)(settings, network, envs.spec(config), steps)
    weights = LocalWeights()
    source = LocalSource(algorithm, envs.make(config, 8, SEED), weights)
    learner = Learner(algorithm, source.buffer, weights)
    while learner.steps < steps:
        source.fill()
        learner.step()
        if learner.version == 3 * (steps - settings.min_replay_size) // 4:
            learner.metrics()
    return algorithm, learner.metrics()


@torch.no_grad()
def told(algorithm: Any, obs: Tree) -> Tensor:
    """Returns the numbers [B, P] of the policy at observations [B, ...]."""
    rows = zero_rows(algorithm.spec, len(obs))._replace(obs=torch.as_tensor(obs)[None])
    numbers: Tensor = algorithm.model(rows, ())[0][0]
    return numbers


def answer(algorithm: Any, obs: Tree) -> Tensor:
    """Returns the actions [B, D] of evaluation, between -1 and 1."""
    actions: Tensor = algorithm.answer(told(algorithm, obs)[None], False)[0]
    return actions


@torch.no_grad()
def values(algorithm: Any, obs: list[float], num_actions: int = 21) -> Tensor:
    """Returns Q [B, num_actions] of actions from -1 to 1, or of all there are, by critic 1."""
    discrete = isinstance(algorithm, sac_discrete.SACDiscrete)
    shown = torch.tensor(obs).repeat_interleave(1 if discrete else num_actions)[:, None]
    rows = zero_rows(algorithm.spec, len(shown))._replace(obs=shown[None])
    features = algorithm.model(rows, (), encode=True)[0][0]
    if discrete:
        return algorithm.critics(features, None)[0]
    actions = torch.linspace(-1, 1, num_actions).repeat(len(obs))[:, None]
    numbers = algorithm.critics(features, actions)[0]
    if isinstance(algorithm, d4pg.D4PG):
        numbers = numbers.softmax(-1) @ algorithm.atoms
    return numbers.reshape(len(obs), num_actions)


@EVERY
def test_a_time_limit_is_no_end(name: str) -> None:
    """Probe 6: reward 1 for ever, cut into episodes of 5 steps. 4.1 where a cut is an end."""
    kwargs = {"number": 6, "box": name != "sac_discrete"}
    changes = CONSTANT | VALUES.get(name, {}) | {"n_step": 3 if name in ("td3", "d4pg") else 1}
    algorithm, _ = solve(name, "probe", kwargs, 700, SMALL, **changes)
    assert values(algorithm, [0.0]).mean().item() == pytest.approx(10.0, rel=0.08)


@EVERY
def test_an_end_is_worth_nothing(name: str) -> None:
    kwargs = {"number": 7, "box": name != "sac_discrete"}
    changes = CONSTANT | VALUES.get(name, {}) | {"n_step": 3}
    algorithm, _ = solve(name, "probe", kwargs, 800, SMALL, **changes)
    assert values(algorithm, [0.0]).mean().item() == pytest.approx(blind_value(3), rel=0.08)


@pytest.mark.parametrize("name", ["ddpg", "sac_discrete"])
def test_values_of_a_state_before_the_reward(name: str) -> None:
    """Probe 3: reward 1 after the second step."""
    kwargs = {"number": 3, "box": name != "sac_discrete"}
    changes = CONSTANT | VALUES.get(name, {})
    algorithm, _ = solve(name, "probe", kwargs, 900, SMALL, **changes)
    assert values(algorithm, [0.0, 1.0]).mean(-1).tolist() == pytest.approx([0.9, 1.0], abs=0.06)


def riccati(gamma: float, horizon: int = 200) -> Any:
    """Returns the gain K of the best linear policy u = -K x, for rewards gamma^t far off."""
    a, b, q, r = Regulator.A, Regulator.B, Regulator.Q, Regulator.R
    p = np.zeros_like(q)
    for _ in range(horizon):
        k = np.linalg.solve(r + gamma * b.T @ p @ b, gamma * b.T @ p @ a)
        p = q + gamma * a.T @ p @ (a - b @ k)
    return k[0]


LQR: dict[str, Any] = {
    "ddpg": {},
    "td3": dict(exploration_noise=0.3, learning_rate=0.002),
    "sac": dict(initial_temperature=1.0),
    "d4pg": dict(value_min=-25.0, value_max=0.0),
}


@BOX
def test_the_gain_of_a_linear_quadratic_regulator(name: str) -> None:
    algorithm, _ = solve(name, "regulator", {}, 2_000, **LQR[name])
    states = torch.rand(256, 2) * 2 - 1  # where episodes begin
    actions = algorithm.units.to_env(answer(algorithm, states))
    regressors = torch.cat([states, torch.ones(256, 1)], -1)
    gain = -torch.linalg.lstsq(regressors, actions).solution[:2, 0].numpy()
    best = riccati(GAMMA)
    assert np.linalg.norm(gain - best) < 0.1 * np.linalg.norm(best), (gain, best)
    # An algorithm that takes the limit of 3 steps for an end learns less than this.
    assert np.linalg.norm(riccati(GAMMA, 3) - best) > 0.2 * np.linalg.norm(best)


ODD = {"low": [-3.0, 10.0], "high": [0.5, 30.0]}


@pytest.mark.parametrize("name", ["td3", "sac"])
def test_an_optimum_near_odd_bounds(name: str) -> None:
    algorithm, _ = solve(name, "bandit", ODD | {"best": [0.0, 13.0]}, 1_000)
    low, high, best = (np.array(x) for x in (ODD["low"], ODD["high"], [0.0, 13.0]))
    found = algorithm.units.to_env(answer(algorithm, [[0.0]]))[0].numpy()
    assert (found - best) / (high - low) * 2 == pytest.approx([0.0, 0.0], abs=0.15)


@BOX
def test_the_best_action_depends_on_what_is_seen(name: str) -> None:
    kwargs = {"low": [-3.0], "high": [0.5], "best": [-2.3], "sight": True}
    algorithm, _ = solve(name, "bandit", kwargs, 1_000)
    # -2.3 and -0.2 are 0.6 of half the range away from its middle.
    assert answer(algorithm, [[1.0], [-1.0]])[:, 0].tolist() == pytest.approx([-0.6, 0.6], abs=0.15)


@pytest.mark.parametrize("name", ["td3", "sac"])
def test_a_reward_for_nothing(name: str) -> None:
    """What the policy wants does not reach critics: an action is worth 1, however it is praised."""
    kwargs = {"low": [-3.0], "high": [0.5], "best": None}
    changes = {"sac": dict(temperature=0.2)}.get(name, {})
    algorithm, metrics = solve(name, "bandit", kwargs, 800, **changes)
    assert values(algorithm, [0.0]).tolist()[0] == pytest.approx([1.0] * 21, abs=0.1)
    if name == "sac":  # nothing is left to want but entropy
        assert answer(algorithm, [[0.0]]).item() == pytest.approx(0.0, abs=0.15)
        assert metrics["entropy"] == pytest.approx(math.log(2), abs=0.1)


BANDIT = {"low": [-3.0], "high": [0.5], "best": [-0.375]}  # 0.5 in units of the bounds


def boltzmann_entropy(temperature: float) -> float:
    """Returns the entropy of the density that is exp(reward / temperature), in those units."""
    actions = np.linspace(-1, 1, 20_001)
    width = actions[1] - actions[0]
    density = np.exp(-((actions - 0.5) ** 2) / temperature)
    density /= density.sum() * width
    return float(-(density * np.log(density)).sum() * width)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_a_fixed_temperature_gives_the_boltzmann_policy(temperature: float) -> None:
    _, metrics = solve("sac", "bandit", BANDIT, 1_000, temperature=temperature)
    assert metrics["entropy"] == pytest.approx(boltzmann_entropy(temperature), abs=0.1)


def test_a_learned_temperature_reaches_its_entropy() -> None:
    algorithm, metrics = solve("sac", "bandit", BANDIT, 1_400, learning_rate_schedule="constant")
    assert metrics["entropy"] == pytest.approx(-1.0, abs=0.1)
    assert boltzmann_entropy(metrics["temperature"]) == pytest.approx(-1.0, abs=0.15)
    assert answer(algorithm, [[0.0]]).item() == pytest.approx(0.5, abs=0.05)


def test_a_fixed_temperature_gives_the_softmax_of_rewards() -> None:
    """Probe 4: rewards -1 and 1."""
    algorithm, _ = solve("sac_discrete", "probe", {"number": 4}, 600, temperature=1.0)
    found = told(algorithm, [[0.0]]).softmax(-1)[0].tolist()
    assert found == pytest.approx(torch.tensor([-1.0, 1.0]).softmax(-1).tolist(), abs=0.05)


@pytest.mark.parametrize("target_entropy", [0.3, None])
def test_a_learned_temperature_keeps_two_actions_open(target_entropy: float | None) -> None:
    wanted = 0.98 * math.log(2) if target_entropy is None else target_entropy
    changes: dict[str, Any] = dict(initial_temperature=3.0, learning_rate_schedule="constant")
    changes["target_entropy"] = target_entropy
    algorithm, metrics = solve("sac_discrete", "probe", {"number": 4}, 1_000, **changes)
    assert metrics["entropy"] == pytest.approx(wanted, abs=0.02)
    # Of two actions whose rewards differ by 2, the log-odds are 2 / alpha.
    bad, good = told(algorithm, [[0.0]])[0].tolist()
    assert good - bad == pytest.approx(2 / metrics["temperature"], rel=0.1)


def test_discrete_actions_that_must_look() -> None:
    """Probe 5: the action must equal the sign of the observation."""
    algorithm, _ = solve("sac_discrete", "probe", {"number": 5}, 600, temperature=0.1)
    assert told(algorithm, [[-1.0], [1.0]]).argmax(-1).tolist() == [0, 1]
    q = values(algorithm, [-1.0, 1.0])
    assert q.tolist() == [pytest.approx([1, -1], abs=0.1), pytest.approx([-1, 1], abs=0.1)]


def test_a_picture_says_what_is_best() -> None:
    network = NetworkConfig(network="drq", hidden_sizes=(64,), activation="relu")
    changes: dict[str, Any] = dict(
        batch_size=32, replay_ratio=32.0, min_replay_size=100, learning_rate=0.001
    )
    changes["learning_rate_schedule"] = "constant"
    algorithm, _ = solve("sac", "column", {}, 400, network, random_shift=2, **changes)
    found = answer(algorithm, np.stack([Column.picture(k) for k in range(3)]))
    assert found[:, 0].tolist() == pytest.approx(Column.BEST, abs=0.3)


def test_all_options_at_once() -> None:
    changes = dict(layer_norm=True, prioritized=True, n_step=3)
    algorithm, _ = solve("td3", "bandit", ODD | {"best": [0.0, 13.0]}, 1_000, **changes)
    assert answer(algorithm, [[0.0]])[0].tolist() == pytest.approx([0.714, -0.7], abs=0.15)

"""Learning from a replay: what is replayed was seen, and gradients stay where they belong."""

from __future__ import annotations

import pathlib
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from torchbeast import algorithms, envs, ops
from torchbeast.algorithms import apex, c51, dqn, iqn, qrdqn, r2d2, rainbow
from torchbeast.algorithms.q_learning import QLearning
from torchbeast.algorithms.target import Target
from torchbeast.data import Rollout
from torchbeast.data.replay import FrameStack, Replay
from torchbeast.loops.weights import LocalWeights
from torchbeast.nets import NetworkConfig
from torchbeast.runners.local import LocalSource

HERE = pathlib.Path(__file__)
SMALL: dict[str, Any] = dict(batch_size=64, replay_size=2_000, min_replay_size=400)


def filled(
    settings: Any, env: envs.EnvConfig, num_envs: int = 4, network: Any = None
) -> tuple[QLearning, Replay]:
    """Returns an algorithm that has learned nothing, and a replay of what it did."""
    torch.manual_seed(3)
    name = algorithms.name_of(settings)
    algorithm: Any = algorithms.find(name)(
        settings, network or NetworkConfig(hidden_sizes=(16, 16)), envs.spec(env), 1000
    )
    algorithm.model.epsilon.fill_(0.5)
    source = LocalSource(algorithm, envs.make(env, num_envs, 0), LocalWeights())
    source.fill()
    assert isinstance(source.buffer, Replay)
    source.close()
    return algorithm, source.buffer


def test_values_of_replayed_rows_are_those_of_acting() -> None:
    """Over frame stacks: the network sees bit for bit what it saw when it acted."""
    algorithm, replay = filled(
        apex.Config(**SMALL, unroll_length=10), envs.EnvConfig("PongNoFrameskip-v4"), 2
    )
    batch = replay.get()
    assert isinstance(batch.obs, FrameStack)
    answer, _ = algorithm.model(batch.rows(slice(0, 1)), ())
    q = ops.chosen(algorithm.values(answer.numbers), batch.action[:1])
    torch.testing.assert_close(q, batch.extras["q"][:1], rtol=1e-4, atol=1e-5)
    # The rows differ: a network that ignored them would pass, too.
    assert q.std() > 1e-4


@pytest.mark.parametrize("burn_in", [0, 5])
def test_values_from_stored_states_are_those_of_acting(burn_in: int) -> None:
    """R2D2's measure of stale states is 0 without learning; from zeros it is not."""
    settings = r2d2.Config(
        **SMALL, unroll_length=5, burn_in=burn_in, sequence_length=11, n_step=3, dueling=True
    )
    algorithm, replay = filled(settings, envs.EnvConfig("CartPole-v1"))
    batch = replay.get()
    assert batch.first[1:].any()  # episodes end within sequences

    def q(state: Any) -> torch.Tensor:
        answer, _ = algorithm.model(batch, state)
        return ops.chosen(algorithm.values(answer.numbers), batch.action)

    torch.testing.assert_close(q(batch.state), batch.extras["q"], rtol=1e-4, atol=1e-5)
    zeros = algorithm.initial_state(settings.batch_size)
    assert (q(zeros) - batch.extras["q"]).abs().max() > 1e-3


def test_first_priorities_are_the_errors_that_learning_would_find() -> None:
    """While model, target network and actors have the same weights."""
    sequences = dict(unroll_length=5, burn_in=5, sequence_length=10)
    for settings in (apex.Config(**SMALL), r2d2.Config(**SMALL, **sequences)):
        algorithm, replay = filled(settings, envs.EnvConfig("CartPole-v1"))
        batch = replay.get()
        expected = algorithm.update(batch, 0).priority
        assert expected is not None
        first = algorithm.initial_priority(batch)
        torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-4)
        assert first.std() > 0


@pytest.mark.parametrize("config_type", [dqn.Config, c51.Config, qrdqn.Config, iqn.Config])
@pytest.mark.parametrize("double", [False, True])
def test_gradients_reach_the_model_only(config_type: Any, double: bool) -> None:
    settings = config_type(**SMALL, double=double, n_step=2)
    algorithm, replay = filled(settings, envs.EnvConfig("CartPole-v1"))
    before = [p.clone() for p in algorithm.target.parameters()]
    algorithm.update(replay.get(), 0)
    assert all(p.grad is None for p in algorithm.target.parameters())
    assert all(map(torch.equal, before, algorithm.target.parameters()))
    moved = [
        not torch.equal(a, b)
        for a, b in zip(algorithm.model.parameters(), algorithm.target.parameters(), strict=True)
    ]
    assert all(moved)


@pytest.mark.parametrize("config_type", [dqn.Config, c51.Config, qrdqn.Config])
def test_the_value_that_is_learned_towards_has_no_gradient(config_type: Any) -> None:
    """Nothing of row 1 but through the target network: other observations there, same gradient."""
    settings = config_type(**SMALL, double=True)
    algorithm, replay = filled(settings, envs.EnvConfig("CartPole-v1"))
    batch = replay.get()
    terminal = batch._replace(discount=torch.zeros_like(batch.discount))

    def gradient(rows: Rollout) -> list[torch.Tensor]:
        loss = []
        algorithm.gradient_step = lambda x, *_: loss.append(x) or x  # type: ignore
        algorithm.update(rows, 0)
        return list(torch.autograd.grad(loss[0], list(algorithm.model.parameters())))

    obs = batch.obs.clone()
    obs[1] += 1
    for one, other in zip(gradient(terminal), gradient(terminal._replace(obs=obs)), strict=True):
        torch.testing.assert_close(one, other)


def test_weights_of_importance_scale_the_losses() -> None:
    settings = dqn.Config(**SMALL, prioritized=True, importance_exponent=1.0)
    algorithm, replay = filled(settings, envs.EnvConfig("CartPole-v1"))
    batch = replay.get()
    over = torch.full((2, 64), 4.0)
    over[:, 0] = 1.0  # the rarest counts 1, the others a quarter
    seen: list[torch.Tensor] = []
    algorithm.gradient_step = lambda x, *_: seen.append(x) or x  # type: ignore
    update = algorithm.update(batch._replace(extras={**batch.extras, "oversampling": over}), 0)
    assert update.priority is not None
    losses = ops.huber(update.priority)
    torch.testing.assert_close(seen[0], (losses[0] + losses[1:].sum() / 4) / 64)


def test_the_target_follows_at_its_interval_and_after_a_resume() -> None:
    model = torch.nn.Linear(1, 1)
    target = Target(model, 100)
    x = torch.ones(1)

    def nudge() -> None:
        with torch.no_grad():
            model.bias.add_(1)

    assert torch.equal(target(x), model(x))
    for steps, same in [(40, False), (99, False), (100, True), (150, False), (260, True)]:
        nudge()
        target.follow(model, steps)
        assert torch.equal(target(x), model(x)) == same, steps
    other = Target(torch.nn.Linear(1, 1), 100)
    other.load_state_dict(target.state_dict())
    nudge()
    other.follow(model, 359)
    assert torch.equal(other(x), target(x))
    other.follow(model, 360)
    assert torch.equal(other(x), model(x))
    assert not other(x).requires_grad


class Masked(gymnasium.Env[Any, Any]):
    """Forbidden is action k at step k, where it would earn most."""

    observation_space = spaces.Dict(
        {"step": spaces.Box(0, 3, (1,), np.float32), "action_mask": spaces.MultiBinary(3)}
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        assert action != self.steps % 3, "a forbidden action"
        self.steps += 1
        return self._obs(), 1.0, self.steps == 3, False, {}

    def _obs(self) -> Any:
        mask = np.ones(3, np.int8)
        mask[self.steps % 3] = 0
        return {"step": np.array([self.steps], np.float32), "action_mask": mask}


def masked(**kwargs: Any) -> Masked:
    return Masked()


@pytest.mark.parametrize("config_type", [dqn.Config, rainbow.Config, iqn.Config, r2d2.Config])
def test_forbidden_actions_are_neither_taken_nor_hoped_for(config_type: Any) -> None:
    more = dict(unroll_length=4, burn_in=0, sequence_length=4) if config_type is r2d2.Config else {}
    settings = config_type(**SMALL, **more)
    algorithm, replay = filled(settings, envs.EnvConfig(f"{HERE}:masked"))
    batch = replay.get()
    with torch.no_grad():
        for p in algorithm.target.parameters():
            p.mul_(3)
    answer = algorithm.ask(algorithm.model, batch, batch.state, noise=False)[0]
    allowed = batch.obs["action_mask"] != 0
    best = algorithm.best(answer)
    assert allowed.gather(-1, best.unsqueeze(-1)).all()
    assert torch.isfinite(algorithm.update(batch, 0).metrics["total_loss"])


def test_each_environment_explores_by_its_place_on_the_ladder() -> None:
    algorithm, _ = filled(apex.Config(**SMALL), envs.EnvConfig("CartPole-v1"))
    from torchbeast.data import zero_rows
    from torchbeast.loops.policy import places

    rows = zero_rows(algorithm.spec, 8)
    best = algorithm.best(algorithm.model(rows, ())[0])
    other = torch.zeros(8)
    for _ in range(1500):
        action, _, _ = algorithm.act(algorithm.model, rows, (), places(8))
        other += (action != best)[0].float()
    # Half of the random actions are the best one, too.
    expected = 0.5 * ops.epsilon_ladder(places(8)) * 1500
    assert other.tolist() == pytest.approx(expected.tolist(), abs=45)
    assert other[0] > other[2] > other[5]


def test_noise_explores_and_evaluation_is_without_it() -> None:
    settings = rainbow.Config(**SMALL, exploration_evaluation=0.0)
    algorithm, _ = filled(settings, envs.EnvConfig("CartPole-v1"))
    from torchbeast.data import zero_rows

    rows = zero_rows(algorithm.spec, 4)
    answers = [algorithm.ask(algorithm.model, rows, (), noise)[0].numbers for noise in (1, 1, 0, 0)]
    assert not torch.equal(answers[0], answers[1])
    assert torch.equal(answers[2], answers[3])
    actions = [algorithm.act(algorithm.model, rows, (), None)[0] for _ in range(50)]
    assert all(torch.equal(action, actions[0]) for action in actions)

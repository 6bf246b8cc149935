"""PPO and A2C: their losses by slow sums, and what goes into a minibatch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from torchbeast.algorithms import a2c, ppo
from torchbeast.data import EnvSpec, Rollout, tree_map, zero_rows
from torchbeast.nets import NetworkConfig

SPEC = EnvSpec(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4))
T, B = 7, 6
CONFIG = ppo.Config(
    unroll_length=T,
    batch_size=B,
    num_epochs=1,
    num_minibatches=1,
    entropy_cost=0.03,
    clip_value=0.4,
    grad_norm_clipping=1e9,
)


def make(use_lstm: bool = False, total_steps: int = 1000, **settings: Any) -> ppo.PPO:
    torch.manual_seed(3)
    network = NetworkConfig(hidden_sizes=(8,), use_lstm=use_lstm)
    return ppo.PPO(dataclasses.replace(CONFIG, **settings), network, SPEC, total_steps)


def rollout(algorithm: Any, seed: int = 0) -> Rollout:
    """Returns a rollout of noise with ends of episodes, as the algorithm would have answered it."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(T + 1, B, generator=generator) < 0.25  # final observations
    first = torch.zeros(T + 1, B, dtype=torch.bool)
    first[1:] = ends[:-1]
    ends &= ~first
    first[1:] = ends[:-1]
    terminal = ends & (torch.rand(T + 1, B, generator=generator) < 0.5)
    batch = zero_rows(SPEC, B, T + 1)._replace(
        obs=torch.randn(T + 1, B, 3, generator=generator),
        reward=torch.randn(T + 1, B, generator=generator).masked_fill(first, 0),
        discount=1 - terminal.float(),
        first=first,
        state=algorithm.initial_state(B),
    )
    with torch.no_grad():
        action, extras, _ = algorithm.act(algorithm.model, batch, batch.state, torch.zeros(1))
    for leaf in extras.values():
        leaf[-1] = 0  # as slots leave the last row
    return batch._replace(action=action, extras=extras)


def slow_advantages(batch: Rollout, value: Tensor, gamma: float, lambda_: float) -> Tensor:
    """Returns the sums of discounted temporal differences, by their definition."""
    advantage = torch.zeros(T, B)
    for b in range(B):
        for t in range(T):
            weight = 1.0
            for k in range(t, T):
                if batch.first[k + 1, b]:
                    break
                bootstrap = gamma * batch.discount[k + 1, b] * value[k + 1, b]
                delta = batch.reward[k + 1, b] + bootstrap - value[k, b]
                advantage[t, b] += weight * delta
                weight *= gamma * lambda_ * float(batch.discount[k + 1, b])
    return advantage


def chosen(batch: Rollout) -> list[tuple[int, int]]:
    return [(t, b) for t in range(T) for b in range(B) if not batch.first[t + 1, b]]


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=False))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("use_lstm", [False, True])
def test_the_gradient_is_that_of_the_slow_loss(seed: int, use_lstm: bool) -> None:
    algorithm = make(use_lstm)
    batch = rollout(algorithm, seed)
    with torch.no_grad():  # the policy has moved since
        for p in algorithm.model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    c = algorithm.config
    before = [p.detach().clone() for p in algorithm.model.parameters()]

    old_value = batch.extras["value"].clone()
    with torch.no_grad():
        now_value = algorithm.model(batch, batch.state)[0].value
    # Without memory the values of acting count; with it they are computed anew.
    value = now_value if use_lstm else torch.cat([old_value[:-1], now_value[-1:]])
    advantage = slow_advantages(batch, value, c.discounting, c.gae_lambda)
    transitions = chosen(batch)
    assert T * B - len(transitions) > 2
    values = torch.stack([advantage[t, b] for t, b in transitions])
    mean, std = values.mean(), values.std()
    output, _ = algorithm.model(batch, batch.state)
    loss = torch.zeros(())
    for t, b in transitions:
        target = advantage[t, b] + value[t, b]
        log_probs = output.logits[t, b].log_softmax(-1)
        ratio = (log_probs[batch.action[t, b]] - batch.extras["log_prob"][t, b]).exp()
        a = (advantage[t, b] - mean) / (std + 1e-8)
        clipped = ratio.clamp(1 - c.clip_ratio, 1 + c.clip_ratio)
        v, v_old = output.value[t, b], value[t, b]
        near = v_old + (v - v_old).clamp(-0.4, 0.4)
        loss = loss - torch.minimum(ratio * a, clipped * a) / len(transitions)
        loss = loss + c.baseline_cost * 0.5 * torch.maximum(
            (v - target) ** 2, (near - target) ** 2
        ) / len(transitions)
        entropy = -(log_probs.exp() * log_probs).sum()
        loss = loss - c.entropy_cost * entropy / len(transitions)
    expected = gradients(algorithm.model, loss)

    seen: list[list[Tensor]] = []
    algorithm.optimizer.step = lambda: seen.append(  # type: ignore[method-assign]
        [p.grad.clone() for p in algorithm.model.parameters()]
    )
    update = algorithm.update(batch, 0)
    assert update.metrics["total_loss"].item() == pytest.approx(loss.item(), abs=1e-5)
    (got,) = seen
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(p, q) for p, q in zip(algorithm.model.parameters(), before, strict=True))


@pytest.mark.parametrize("use_lstm", [False, True])
def test_the_first_minibatch_sees_the_policy_that_acted(use_lstm: bool) -> None:
    algorithm = make(use_lstm)
    update = algorithm.update(rollout(algorithm), 0)
    assert abs(update.metrics["kl"].item()) < 1e-6


@pytest.mark.parametrize("use_lstm", [False, True])
def test_a_pass_takes_every_chosen_transition_once(use_lstm: bool) -> None:
    algorithm = make(use_lstm, num_epochs=3, num_minibatches=4)
    batch = rollout(algorithm)
    seen: list[Any] = []
    step = algorithm._gradient_step

    def spy(minibatch: ppo.Experience, clip_ratio: float) -> dict[str, Tensor]:
        seen.append(tree_map(torch.clone, minibatch))
        return step(minibatch, clip_ratio)

    algorithm._gradient_step = spy  # type: ignore[method-assign]
    algorithm.update(batch, 0)
    assert len(seen) == 12
    # With memory whole rollouts, in which a mask leaves out what nobody chose; without, the rest.
    chosen = torch.ones(T * B, dtype=torch.bool) if use_lstm else ~batch.first[1:].flatten()
    assert use_lstm or not chosen.all()
    wanted = batch.obs[:-1].flatten(0, 1)
    for epoch in (seen[:4], seen[4:8], seen[8:]):
        obs = torch.cat([m.rows.obs for m in epoch], 1).flatten(0, 1)
        assert sorted(obs[:, 0].tolist()) == sorted(wanted[chosen][:, 0].tolist())
        for m in epoch:
            # The parts of a transition stay together.
            index = torch.cdist(m.rows.obs.flatten(0, 1), wanted).argmin(1)
            assert torch.equal(m.rows.action.flatten(), batch.action[:-1].flatten()[index])
            assert torch.equal(m.log_prob.flatten(), batch.extras["log_prob"][:-1].flatten()[index])
            if use_lstm:
                assert m.rows.obs.shape[0] == T
                assert m.rows.state[0].shape[1] == m.rows.obs.shape[1]
                assert torch.equal(m.valid.flatten(), (~batch.first[1:]).float().flatten()[index])
            else:
                assert m.valid is None


def test_a_large_divergence_ends_the_passes() -> None:
    metrics = make(num_epochs=50, learning_rate=0.05, target_kl=0.02)
    update = metrics.update(rollout(metrics), 0)
    assert 1 <= update.metrics["epochs"].item() < 50
    free = make(num_epochs=50, learning_rate=0.05)
    assert free.update(rollout(free), 0).metrics["epochs"].item() == 50


def test_schedules_fall_with_steps() -> None:
    algorithm = make(clip_schedule="linear", learning_rate=0.1)
    clips = []
    step = algorithm._gradient_step
    algorithm._gradient_step = lambda m, clip: clips.append(clip) or step(m, clip)  # type: ignore
    for steps in (0, 500, 1000):
        algorithm.update(rollout(algorithm), steps)
    assert clips == pytest.approx([0.2, 0.1, 0.0])
    assert algorithm.optimizer.param_groups[0]["lr"] == 0
    constant = make(learning_rate_schedule="constant", learning_rate=0.1)
    constant.update(rollout(constant), 1000)
    assert constant.optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(("use_lstm", "number"), [(False, T * B + 1), (True, B + 1), (False, 0)])
def test_minibatches_that_cannot_be_filled(use_lstm: bool, number: int) -> None:
    with pytest.raises(ValueError, match="--num_minibatches from 1 to"):
        make(use_lstm, num_minibatches=number)


def test_a_batch_without_a_chosen_step_changes_nothing() -> None:
    algorithm = make(normalize_advantages=True)
    batch = rollout(algorithm)
    before = [p.detach().clone() for p in algorithm.model.parameters()]
    update = algorithm.update(batch._replace(first=torch.ones_like(batch.first)), 0)
    assert all(torch.isfinite(x).all() for x in update.metrics.values())
    assert all(torch.equal(p, q) for p, q in zip(algorithm.model.parameters(), before, strict=True))


@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_a2c_makes_the_slow_loss(use_lstm: bool, normalize: bool) -> None:
    torch.manual_seed(3)
    config = a2c.Config(
        unroll_length=T,
        batch_size=B,
        gae_lambda=0.9,
        normalize_advantages=normalize,
        learning_rate=0.0,
    )
    network = NetworkConfig(hidden_sizes=(8,), use_lstm=use_lstm)
    algorithm = a2c.A2C(config, network, SPEC, 1000)
    batch = rollout(algorithm)
    output, _ = algorithm.model(batch, batch.state)
    value = output.value.detach()
    advantage = slow_advantages(batch, value, config.discounting, config.gae_lambda)
    target = advantage + value[:-1]
    transitions = chosen(batch)
    if normalize:
        kept = torch.stack([advantage[t, b] for t, b in transitions])
        advantage = (advantage - kept.mean()) / (kept.std() + 1e-8)
    loss = torch.zeros(())
    for t, b in transitions:
        log_probs = output.logits[t, b].log_softmax(-1)
        loss = loss - log_probs[batch.action[t, b]] * advantage[t, b]
        loss = loss + config.baseline_cost * 0.5 * (output.value[t, b] - target[t, b]) ** 2
        loss = loss + config.entropy_cost * (log_probs.exp() * log_probs).sum()
    loss = loss / len(transitions)
    expected = gradients(algorithm.model, loss)
    norm = math.sqrt(sum(float((g**2).sum()) for g in expected))
    update = algorithm.update(batch, 0)
    assert update.metrics["total_loss"].item() == pytest.approx(loss.item(), abs=1e-5)
    assert update.metrics["grad_norm"].item() == pytest.approx(norm, rel=1e-4)

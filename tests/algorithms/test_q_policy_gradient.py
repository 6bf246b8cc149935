"""Policies with critics: each part learns what its own loss says, and acts within its bounds."""

from __future__ import annotations

import copy
import math
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from torchbeast import algorithms, ops
from torchbeast.algorithms.sac import squashed
from torchbeast.data import EnvSpec, Rollout, tree_leaves, tree_map, zero_rows
from torchbeast.envs.actions import gate
from torchbeast.nets import NetworkConfig, unwrapped

B, TOTAL = 12, 1000
SMALL: dict[str, Any] = dict(batch_size=B, random_shift=0, target_rate=0.1)
ATOMS: dict[str, Any] = dict(value_min=-4.0, value_max=6.0, num_atoms=11)
VECTOR = spaces.Box(-9, 9, (4,))
PICTURES = spaces.Dict({"view": spaces.Box(0, 255, (3, 18, 18), np.uint8), "speed": VECTOR})
LOW, HIGH = np.array([-0.3, 1.7, -1e3]), np.array([7.1, 1.9, 5e-2])


def make(name: str, observation: Any = VECTOR, network: Any = None, **settings: Any) -> Any:
    torch.manual_seed(3)
    kind = algorithms.find(name)
    config = kind.config_type(**{**SMALL, **(ATOMS if name == "d4pg" else {}), **settings})
    dtype = np.float64 if name == "td3" else np.float32  # of the actions; networks have float32
    box = spaces.Box(LOW.astype(dtype), HIGH.astype(dtype), dtype=dtype)
    spec = EnvSpec(observation, spaces.Discrete(5) if name == "sac_discrete" else box)
    return kind(config, NetworkConfig(hidden_sizes=(16, 16), **(network or {})), spec, TOTAL)


def batch_of(algorithm: Any, seed: int = 0) -> Rollout:
    """Transitions [2, B] as a replay draws them, a few of them to a terminal state."""
    g = torch.Generator().manual_seed(seed)
    algorithm.spec.action.seed(seed)
    rows = zero_rows(algorithm.spec, B, 2)

    def sample(x: Tensor) -> Tensor:
        size = 256 if x.dtype == torch.uint8 else 3
        return (torch.rand(x.shape, generator=g) * size).to(x.dtype)

    action = np.stack([[algorithm.spec.action.sample() for _ in range(B)] for _ in range(2)])
    return rows._replace(
        obs=tree_map(sample, rows.obs),
        reward=torch.randn(2, B, generator=g),
        discount=(torch.rand(2, B, generator=g) < 0.7).float(),
        action=torch.from_numpy(action),
        extras={"oversampling": torch.rand(2, B, generator=g) * 3 + 0.2},
    )


def trained(name: str, updates: int = 3, *args: Any, **settings: Any) -> Any:
    """Learned a little, so that targets are no copies any more and no gradient is 0 by chance."""
    algorithm = make(name, *args, **settings)
    for i in range(updates):
        algorithm.update(batch_of(algorithm, i + 10), 0)
    return algorithm


def tensors(state: Any) -> list[Tensor]:
    return [x for x in tree_leaves(state) if isinstance(x, Tensor)]


def snapshot(x: Any) -> list[Tensor]:
    return [t.detach().clone() for t in (x if isinstance(x, list) else x.parameters())]


def same(x: list[Tensor], y: list[Tensor]) -> bool:
    assert len(x) == len(y) > 0
    return all(map(torch.equal, x, y))


# What each algorithm's paper has learned, from the parts of an algorithm: errors of the critics
# [K, B] (of D4PG the loss itself), the loss of the policy [B], and its entropy [B].
Learned = tuple[Tensor, Tensor, Tensor | None]


def ddpg(a: Any, now: Tensor, nxt: Tensor, action: Tensor, r: Tensor, g: Tensor) -> Learned:
    y = r + g * a.target.model(nxt, a.target_policy.model(nxt).tanh())[0, :, 0]
    value = a.critics(now, a.actor.policy(now).tanh())[0, :, 0]
    return y.detach() - a.critics(now, action)[..., 0], -value, None


def td3(a: Any, now: Tensor, nxt: Tensor, action: Tensor, r: Tensor, g: Tensor) -> Learned:
    noise = (0.2 * torch.randn(action.shape)).clamp(-0.5, 0.5)
    next_action = (a.target_policy.model(nxt).tanh() + noise).clamp(-1, 1)
    y = r + g * torch.minimum(*a.target.model(nxt, next_action)[..., 0])
    value = a.critics(now, a.actor.policy(now).tanh())[0, :, 0]
    return y.detach() - a.critics(now, action)[..., 0], -value, None


def sac(a: Any, now: Tensor, nxt: Tensor, action: Tensor, r: Tensor, g: Tensor) -> Learned:
    alpha = a.temperature().detach()
    next_action, next_log_prob = squashed(a.actor.policy(nxt)).sample_with_log_prob()
    y = r + g * (torch.minimum(*a.target.model(nxt, next_action)[..., 0]) - alpha * next_log_prob)
    proposed, log_prob = squashed(a.actor.policy(now)).sample_with_log_prob()
    loss = alpha * log_prob - torch.minimum(*a.critics(now, proposed)[..., 0])
    return y.detach() - a.critics(now, action)[..., 0], loss, -log_prob


def sac_discrete(a: Any, now: Tensor, nxt: Tensor, action: Tensor, r: Tensor, g: Tensor) -> Learned:
    alpha, q = a.temperature().detach(), a.critics(now, None)
    p = a.actor.policy(nxt).softmax(-1)
    y = r + g * (p * (torch.minimum(*a.target.model(nxt, None)) - alpha * p.log())).sum(-1)
    p = a.actor.policy(now).softmax(-1)
    loss = (p * (alpha * p.log() - torch.minimum(*q))).sum(-1)
    return y.detach() - q[:, torch.arange(B), action], loss, -(p * p.log()).sum(-1)


def d4pg(a: Any, now: Tensor, nxt: Tensor, action: Tensor, r: Tensor, g: Tensor) -> Learned:
    z = a.target.model(nxt, a.target_policy.model(nxt).tanh()).softmax(-1)[0]
    m = ops.categorical_projection(a.atoms, z, r, g)
    proposed = a.critics(now, a.actor.policy(now).tanh()).softmax(-1)[0]
    return -(m * a.critics(now, action).log_softmax(-1)).sum(-1), -(proposed @ a.atoms), None


LEARNED = {f.__name__: f for f in (ddpg, td3, sac, sac_discrete, d4pg)}
ALL = list(LEARNED)


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("observation", [VECTOR, PICTURES])
@pytest.mark.parametrize("name", ALL)
def test_each_part_learns_from_its_own_loss(name: str, observation: Any, prioritized: bool) -> None:
    """By hand, from a copy: the encoder's gradient is that of the critics' loss alone."""
    more = dict(prioritized=prioritized, discounting=0.9, reward_scale=2.0)
    network = {"network": "drq"} if observation is PICTURES else {}
    algorithm = trained(name, 3, observation, network, **more)  # TD3's policy is due next
    a, batch = copy.deepcopy(algorithm), batch_of(algorithm)
    torch.manual_seed(5)
    update = algorithm.update(batch, steps=TOTAL // 2)

    torch.manual_seed(5)
    obs = [tree_map(lambda x, t=t: x[t : t + 1], batch.obs) for t in (0, 1)]
    now, nxt = (a.actor.encoder(x)[0] for x in obs)
    action = batch.action[0]
    if name != "sac_discrete":
        action = torch.from_numpy((2 * action.numpy() - HIGH - LOW) / (HIGH - LOW)).float()
    r, g = 2.0 * batch.reward[1], 0.9 * batch.discount[1]
    td, policy_loss, entropy = LEARNED[name](a, now, nxt.detach(), action, r, g)
    critic_loss = td[0] if name == "d4pg" else 0.5 * td.square().sum(0)
    if prioritized:  # the exponent is half way from 0.4 to 1
        over = batch.extras["oversampling"][0]
        critic_loss = critic_loss * (over / over.min()) ** -0.7
    torch.testing.assert_close(update.priority, td.abs().mean(0), rtol=1e-3, atol=1e-4)
    parts = [(critic_loss.mean(), "critics"), (policy_loss.mean(), "actor.policy")]
    if observation is PICTURES:
        parts.append((critic_loss.mean(), "actor.encoder"))
    if entropy is not None:
        target = 0.98 * math.log(5) if name == "sac_discrete" else -3.0
        parts.append((a.temperature.log * (entropy.detach().mean() - target), "temperature"))
    for loss, part in parts:
        ours, copied = (list(attrgetter(part)(x).parameters()) for x in (algorithm, a))
        grads = torch.autograd.grad(loss, copied, retain_graph=True)
        assert any(g.any() for g in grads)
        for p, g in zip(ours, grads, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_targets_follow_slowly_and_without_gradient(name: str) -> None:
    algorithm = trained(name)
    pairs = [(algorithm.target, algorithm.critics)]
    pairs += [] if "sac" in name else [(algorithm.target_policy, algorithm.actor.policy)]
    before = [snapshot(target) for target, _ in pairs]
    algorithm.update(batch_of(algorithm), 0)
    for (target, model), olds in zip(pairs, before, strict=True):
        assert all(p.grad is None and not p.requires_grad for p in target.parameters())
        for old, new, p in zip(olds, target.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(new, 0.9 * old + 0.1 * p)
            assert not torch.equal(new, p)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_td3_moves_policy_and_targets_now_and_then(delay: int) -> None:
    algorithm = make("td3", policy_delay=delay)
    slow = [algorithm.actor.policy, algorithm.target_policy, algorithm.target]
    for i in range(1, 8):
        before, critics = [snapshot(x) for x in slow], snapshot(algorithm.critics)
        algorithm.update(batch_of(algorithm, i), 0)
        moved = [not same(snapshot(part), old) for part, old in zip(slow, before, strict=True)]
        assert moved == [i % delay == 0] * 3, i
        assert not same(snapshot(algorithm.critics), critics)


@pytest.mark.parametrize("name", ["sac", "sac_discrete"])
@pytest.mark.parametrize("given", ["initial_temperature", "temperature"])
def test_the_temperature_is_learned_unless_it_is_given(name: str, given: str) -> None:
    algorithm = make(name, **{given: 0.3})
    owned = {id(p) for group in algorithm.optimizer.param_groups for p in group["params"]}
    learned = id(algorithm.temperature.log) in owned
    assert learned == (given == "initial_temperature")
    told = [algorithm.update(batch_of(algorithm, i), 0).metrics["temperature"] for i in (0, 1)]
    assert told[0].item() == pytest.approx(0.3)
    assert (told[0] != told[1]).item() == learned


@pytest.mark.parametrize("name", ALL)
def test_a_resume_goes_on_bit_for_bit(name: str) -> None:
    one, other = (trained(name, n, network={"normalize_observations": True}) for n in (3, 4))
    one.observe(batch_of(one))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    states = []
    for algorithm in (one, other):
        torch.manual_seed(8)
        for i in range(3):
            algorithm.update(batch_of(algorithm, i), 0)
            algorithm.observe(batch_of(algorithm, i))
        states.append(tensors(algorithm.state_dict()))
    assert same(*states)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_that_is_not_finite_teaches_nothing(name: str) -> None:
    algorithm = trained(name)
    owned = [p for group in algorithm.optimizer.param_groups for p in group["params"]]
    owned += tensors(algorithm.optimizer.state_dict())
    before = snapshot(owned)
    batch = batch_of(algorithm)
    batch.reward[1, 0] = math.nan
    assert algorithm.update(batch, 0).priority is None
    assert same(owned, before)
    assert all(x.isfinite().all() for x in tensors(algorithm.state_dict()))
    algorithm.update(batch_of(algorithm), 0)
    assert not same(owned, before)


def acted(algorithm: Any, explore: bool, envs: int) -> Tensor:
    """Actions [1, envs, ...] at one observation, all of which the environment takes."""
    rows = batch_of(algorithm).rows(slice(0, 1))
    rows = tree_map(lambda x: x[:, :1].expand(-1, envs, *x.shape[2:]), rows._replace(version=()))
    place = torch.linspace(0, 1, envs) if explore else None
    with torch.inference_mode():
        action, extras, state = algorithm.act(algorithm.model, rows, (), place)
    assert (extras, state) == ({}, ())
    space = algorithm.spec.action
    assert action.numpy().dtype == space.dtype
    taken = gate(space, envs)(action[0].numpy())
    assert all(space.contains(x) for x in taken[::50])
    assert np.abs(taken - action[0].numpy()).max() < 1e-4  # a rounding, of 1000
    return action


@pytest.mark.parametrize("name", ALL)
def test_actions_are_uniform_until_learning_begins(name: str) -> None:
    algorithm = make(name)
    action = acted(algorithm, True, 6000)
    if name == "sac_discrete":
        counts = torch.bincount(action.flatten(), minlength=5)[:, None]
    else:
        share = (action[0].double().numpy() - LOW) / (HIGH - LOW)
        assert (share.min(), share.max()) == pytest.approx((0, 1), abs=1e-3)
        counts = torch.stack([torch.from_numpy(x).histc(5, 0, 1) for x in share.T], 1)
        assert np.abs(np.corrcoef(share.T) - np.eye(3)).max() < 0.06
    assert counts.float().numpy() == pytest.approx(np.full(counts.shape, 1200), abs=130)


@pytest.mark.parametrize("name", ALL)
def test_then_the_policy_acts_and_evaluation_is_its_middle(name: str) -> None:
    algorithm = make(name, network={"normalize_observations": True})
    assert unwrapped(algorithm.model).random == 1
    algorithm.update(batch_of(algorithm), 0)
    assert unwrapped(algorithm.model).random == 0
    row = batch_of(algorithm).rows(slice(0, 1))
    numbers = algorithm.model(row, ())[0][:, :1].expand(1, 4000, -1)
    evaluated = acted(algorithm, False, 4000)
    assert (evaluated == evaluated[:, :1]).all()
    torch.manual_seed(6)
    explored = acted(algorithm, True, 4000)
    torch.manual_seed(6)
    if name == "sac_discrete":
        assert torch.equal(evaluated, numbers.argmax(-1))
        share = torch.bincount(explored[0], minlength=5) / 4000
        torch.testing.assert_close(share, numbers[0, 0].softmax(-1).detach(), rtol=0, atol=0.04)
        return
    middle = numbers.chunk(2, -1)[0] if name == "sac" else numbers
    torch.testing.assert_close(evaluated, algorithm.units.to_env(middle.tanh()).detach())
    noise = torch.randn_like(middle)
    noisy = ops.explored(middle.tanh(), noise, {"d4pg": 0.3}.get(name, 0.1))
    torch.manual_seed(6)
    expected = squashed(numbers).sample() if name == "sac" else noisy
    # The second dimension is 0.2 wide and lies at 1.8: float32 keeps six digits of it.
    unit = algorithm.units.from_env(explored)
    torch.testing.assert_close(unit, expected.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pixels", [0, 4])
def test_pictures_are_moved_before_they_are_learned_from(pixels: int) -> None:
    algorithm = make("ddpg", PICTURES, {"network": "drq"}, random_shift=pixels)
    one, other = (algorithm.features(batch_of(algorithm)) for _ in range(2))
    assert [x.requires_grad for x in one] == [True, False]
    assert all(torch.equal(x, y) == (pixels == 0) for x, y in zip(one, other, strict=True))

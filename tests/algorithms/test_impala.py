"""IMPALA: its loss by a slow sum, and that acting and learning see the same policy."""

from __future__ import annotations

import copy
import dataclasses
import pathlib

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from torchbeast import envs
from torchbeast.algorithms import impala
from torchbeast.data import EnvSpec, Rollout, tree_map
from torchbeast.loops.evaluate import evaluate
from torchbeast.nets import NetworkConfig
from torchbeast.runners import build, checks
from torchbeast.runners.config import RunConfig, SystemConfig

PROBES = str(pathlib.Path(__file__).parents[1] / "probes.py")
T = 11  # longer than the episodes of 3 to 6 steps, and no multiple of theirs


class Frozen:
    """A run whose weights stay what they are; keeps copies of the batches."""

    def __init__(self, use_lstm: bool, num_actors: int, env: envs.EnvConfig | None = None) -> None:
        config = RunConfig(
            env=env or envs.EnvConfig(f"{PROBES}:counting"),
            algorithm=impala.Config(unroll_length=T, batch_size=4, learning_rate=0.0),
            network=NetworkConfig(use_lstm=use_lstm, hidden_sizes=(16,)),
            system=SystemConfig(
                num_envs=0 if num_actors else 4,
                num_actors=num_actors,
                envs_per_actor=2,
                torch_threads=1,
            ),
        )
        self.config = checks.checked(config)
        self.algorithm, self.source, self.learner = build.build(self.config, 0)
        assert isinstance(self.algorithm, impala.Impala)
        with torch.no_grad():  # a policy far from uniform, so that differences show
            for p in self.algorithm.model.policy.parameters():
                p.add_(torch.randn_like(p))
        self.learner.resume(0, 0)
        self.batches: list[Rollout] = []
        update = self.algorithm.update

        def spy(batch: Rollout, steps: int) -> object:
            self.batches.append(Rollout(*tree_map(torch.clone, tuple(batch))))
            return update(batch, steps)

        self.algorithm.update = spy  # type: ignore[method-assign, assignment]

    def learn(self, updates: int) -> None:
        for _ in range(updates):
            self.source.fill()
            self.learner.step()

    def largest_log_rho(self) -> float:
        """Returns how far the policy that learns is from the one that acted, over all rows."""
        largest = 0.0
        for batch in self.batches:
            with torch.no_grad():
                output, _ = self.algorithm.model(batch, batch.state)
            new, old = output.logits[:-1], batch.extras["logits"][:-1]
            assert old.std() > 0.1
            difference = new.log_softmax(-1) - old.log_softmax(-1)
            largest = max(largest, difference.abs().max().item())
        return largest


@pytest.mark.parametrize("num_actors", [0, 2])
@pytest.mark.parametrize("use_lstm", [False, True])
def test_acting_and_learning_see_the_same_policy(use_lstm: bool, num_actors: int) -> None:
    run = Frozen(use_lstm, num_actors)
    try:
        run.learn(4)
        if use_lstm:
            probes = envs.make(run.config.env, 3, 5)
            evaluate(run.algorithm, probes)  # must not touch the state of acting
        run.learn(2)
        assert any(batch.first[1:-1].any() for batch in run.batches)
        assert not all(batch.first[0].all() for batch in run.batches[1:])
        assert run.largest_log_rho() < 1e-5
        if use_lstm:  # the test has power: a wrong state shows
            run.batches = [
                b._replace(state=tree_map(torch.zeros_like, b.state)) for b in run.batches
            ]
            assert run.largest_log_rho() > 1e-3
    finally:
        run.source.close()


def batch_of(seed: int, columns: int, length: int = 6) -> Rollout:
    """Returns a batch of random rows with ends, time limits and starts in it."""
    g = torch.Generator().manual_seed(seed)
    shape = (length + 1, columns)
    ends = torch.rand(shape, generator=g) < 0.3
    first = torch.zeros(shape, dtype=torch.bool)
    first[1:] = ends[:-1]
    ends &= ~first
    first[1:] = ends[:-1]
    limit = torch.rand(shape, generator=g) < 0.5
    return Rollout(
        obs=torch.randn(*shape, 3, generator=g),
        reward=torch.where(first, 0.0, 2 * torch.randn(shape, generator=g)),
        discount=1 - (ends & ~limit).float(),
        first=first,
        prev_action=torch.zeros(shape, dtype=torch.int64),
        action=torch.randint(4, shape, generator=g),
        extras={"logits": torch.randn(*shape, 4, generator=g)},
        state=(),
        version=torch.zeros(columns, dtype=torch.int64),
    )


def make(**settings: object) -> impala.Impala:
    spec = EnvSpec(spaces.Box(-9, 9, (3,)), spaces.Discrete(4))
    config = dataclasses.replace(impala.Config(entropy_cost=0.01), **settings)
    torch.manual_seed(3)
    return impala.Impala(config, NetworkConfig(hidden_sizes=(8,)), spec, 1000)


def slow_loss(algorithm: impala.Impala, batch: Rollout) -> dict[str, float]:
    """Returns the losses by the sums of the paper, one trace after another."""
    c = algorithm.config
    with torch.no_grad():
        output, _ = algorithm.model(batch, ())
    log_pi, log_mu = output.logits.log_softmax(-1), batch.extras["logits"].log_softmax(-1)
    length, columns = batch.reward.shape[0] - 1, batch.reward.shape[1]
    pg = baseline = entropy = 0.0
    for b in range(columns):
        v = output.value[:, b].tolist()
        for t in range(length):
            if batch.first[t + 1, b]:
                continue

            def delta(s: int, clip: float, after: float, b: int = b, v: list[float] = v) -> float:
                reward = batch.reward[s + 1, b].clamp(-1, 1).item()
                discount = c.discounting * batch.discount[s + 1, b].item()
                return min(clip, rho(s)) * (reward + discount * after - v[s])

            def rho(s: int, b: int = b) -> float:
                a = batch.action[s, b]
                return float((log_pi[s, b, a] - log_mu[s, b, a]).exp())

            def target(s: int, b: int = b, v: list[float] = v) -> float:
                """v_s: the sum of discounted differences until the episode or the rollout ends."""
                total, weight, k = v[s], 1.0, s
                while k < length and not batch.first[k + 1, b]:
                    total += weight * delta(k, c.clip_rho, v[k + 1])
                    weight *= c.discounting * batch.discount[k + 1, b].item()
                    weight *= min(c.clip_c, rho(k))
                    k += 1
                return total

            pg -= log_pi[t, b, batch.action[t, b]].item() * delta(t, c.clip_pg_rho, target(t + 1))
            baseline += 0.5 * (target(t) - v[t]) ** 2
            entropy += (log_pi[t, b].exp() * log_pi[t, b]).sum().item()
    return {
        "pg_loss": pg,
        "baseline_loss": c.baseline_cost * baseline,
        "entropy_loss": c.entropy_cost * entropy,
    }


@pytest.mark.parametrize("seed", range(4))
def test_losses_equal_the_slow_sums(seed: int) -> None:
    algorithm = make()
    batch = batch_of(seed, 5)
    assert batch.first[1:].any()
    expected = slow_loss(algorithm, batch)
    metrics = algorithm.update(batch, 0).metrics
    for name, value in expected.items():
        assert metrics[name].item() == pytest.approx(value, rel=1e-4, abs=1e-4), name
    assert metrics["total_loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)


def gradient(algorithm: impala.Impala, batch: Rollout) -> Tensor:
    """Returns the gradient of one update that changes nothing."""
    algorithm.config = dataclasses.replace(
        algorithm.config, learning_rate=0.0, grad_norm_clipping=1e9
    )
    algorithm.update(batch, 0)
    return torch.cat([p.grad.reshape(-1).clone() for p in algorithm.model.parameters()])  # type: ignore[union-attr]


def test_the_gradient_of_a_batch_is_the_sum_of_its_columns() -> None:
    algorithm = make()
    batch = batch_of(1, 5)
    columns = [gradient(algorithm, batch.columns(slice(i, i + 1))) for i in range(5)]
    torch.testing.assert_close(gradient(algorithm, batch), sum(columns), rtol=1e-4, atol=1e-5)


def test_nothing_is_learned_across_the_start_of_an_episode() -> None:
    algorithm = make()
    batch = batch_of(2, 1)
    batch.first[:] = False
    batch.first[3] = True
    batch.discount[:] = 1
    batch.discount[2] = 0
    early = batch.rows(slice(0, 3))
    # The rows after it change; the last one's action and logits are those of nobody.
    other = Rollout(*tree_map(torch.clone, tuple(batch)))
    other.action[2] = (other.action[2] + 1) % 4
    other.extras["logits"][2] += 3
    assert torch.equal(gradient(algorithm, batch), gradient(algorithm, other))
    other.reward[4:] += 0.1
    assert not torch.equal(gradient(algorithm, batch), gradient(algorithm, other))
    late = batch.rows(slice(3, None))
    both = gradient(algorithm, early) + gradient(algorithm, late)
    torch.testing.assert_close(gradient(algorithm, batch), both, rtol=1e-4, atol=1e-5)


def test_the_learning_rate_falls_with_steps() -> None:
    algorithm = make()
    rates = []
    for steps in (0, 250, 1000, 2000):
        algorithm.update(batch_of(0, 2), steps)
        rates.append(algorithm.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.00048, 0.00036, 0.0, 0.0])


def test_the_mode_is_the_answer_of_evaluation() -> None:
    algorithm = make()
    batch = batch_of(0, 50).rows(slice(0, 1))
    best = algorithm.model(batch, ())[0].logits.argmax(-1)
    action, extras, _ = algorithm.act(algorithm.model, batch, (), None)
    assert torch.equal(action, best)
    assert set(extras) == {"logits"}
    assert not torch.equal(algorithm.act(algorithm.model, batch, (), torch.zeros(50))[0], best)


@pytest.mark.parametrize("name", ["rmsprop", "rmsprop_tf", "adam"])
def test_state_goes_out_and_in(name: str) -> None:
    one, other = make(optimizer=name), make(optimizer=name)
    for seed in range(3):
        one.update(batch_of(seed, 2), 0)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for algorithm in (one, other):
        algorithm.update(batch_of(9, 2), 100)
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="'optimizer'"):
        other.load_state_dict({"model": one.model.state_dict()})

"""Normalised networks: baselines' VecNormalize, but frozen while acting and learning."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers.utils import RunningMeanStd

from torchbeast.data import EnvSpec, tree_map
from torchbeast.nets import NetworkConfig, build, is_recurrent, normalised_rewards, observe

from .samples import sample_rows

VECTOR = EnvSpec(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(2))
TREE = EnvSpec(
    spaces.Dict(
        {
            "action_mask": spaces.Box(0, 1, (2,), np.float32),
            "bool": spaces.Box(0, 1, (2,), np.bool_),
            "bytes": spaces.Box(0, 255, (2,), np.uint8),
            "code": spaces.Discrete(3),
            "double": spaces.Box(-9, 9, (), np.float64),
            "image": spaces.Box(0, 1, (1, 8, 8), np.float32),
            "pair": spaces.Tuple([spaces.Box(0, 99, (2, 2), np.int32), spaces.MultiBinary(2)]),
        }
    ),
    spaces.Discrete(2),
)
BOTH = {"normalize_observations": True, "normalize_rewards": True}


def alone(x):
    """The sum over one learner."""
    return x


def make(spec=VECTOR, discounting=0.9, **settings):
    torch.manual_seed(0)
    return build(NetworkConfig(**{**BOTH, **settings}), spec, discounting)


def statistics(net):
    return {key: x for key, x in net.state_dict().items() if not key.startswith("model")}


def rollouts(spec, count, steps, envs, net):
    """Consecutive rollouts: the last row of each is row 0 of the next, and the state goes on."""
    rows = sample_rows(spec, count * steps + 1, envs)
    rows.first[0] = True
    rows.reward[rows.first] = 0
    state = net.initial_state(envs)
    for i in range(count):
        batch = rows.rows(slice(i * steps, (i + 1) * steps + 1))._replace(state=state)
        yield batch
        with torch.no_grad():
            _, state = net(batch.rows(slice(None, -1)), state)


def test_before_anything_was_seen_observations_stay():
    net = make(normalize_rewards=False)
    rows = sample_rows(VECTOR, 4, 2)
    output, _ = net(rows, ())
    expected, _ = net.model(rows, ())
    assert torch.equal(output.logits, expected.logits)


def test_answering_changes_no_statistics():
    net = make(use_lstm=True)
    before = {key: x.clone() for key, x in statistics(net).items()}
    rows = sample_rows(VECTOR, 4, 2)
    net(rows, net.initial_state(2))
    torch.testing.assert_close(statistics(net), before, rtol=0, atol=0)
    observe(net, rows, alone)
    normalised_rewards(net, rows._replace(state=net.initial_state(2)), alone)
    after = statistics(net)
    assert not any(torch.equal(after[key], x) for key, x in before.items())


@pytest.mark.parametrize("steps", [1, 5])
def test_the_numbers_are_those_of_vec_normalize(steps):
    net = make()
    seen = RunningMeanStd(epsilon=1e-12, shape=(3,))
    returns = RunningMeanStd(epsilon=1e-12, shape=())
    total = np.zeros(2)
    for batch in rollouts(VECTOR, 40 // steps, steps, 2, net):
        scaled = normalised_rewards(net, batch, alone)
        observe(net, batch, alone)
        earned = []
        for t in range(1, steps + 1):
            first = batch.first[t].numpy()
            # There an episode's end and the next one's start are one step; here they are two.
            total = np.where(first, 0, total * 0.9 + batch.reward[t].numpy())
            earned += total[~first].tolist()
        if earned:
            returns.update(np.array(earned))
        expected = batch.reward[1:].numpy() / np.sqrt(returns.var + 1e-8)
        np.testing.assert_allclose(scaled.numpy(), expected.clip(-10, 10), rtol=1e-5)

        seen.update(batch.obs[:-1].flatten(0, 1).numpy())
        obs = net._standardised(batch.obs)
        expected = (batch.obs.numpy() - seen.mean) / np.sqrt(seen.var + 1e-8)
        np.testing.assert_allclose(obs.numpy(), expected.clip(-10, 10), rtol=1e-4, atol=1e-5)
        assert obs.dtype == torch.float32
    np.testing.assert_allclose(net.seen.mean, seen.mean, rtol=1e-5)
    np.testing.assert_allclose(net.returns.var[0], returns.var, rtol=1e-5)


def test_far_values_are_clipped():
    net = make()
    rows = sample_rows(VECTOR, 50, 4)
    rows = rows._replace(state=net.initial_state(4))
    observe(net, rows, alone)
    rows.obs[0, 0] = torch.tensor([1e6, -1e6, 1e6])
    assert net._standardised(rows.obs)[0, 0].tolist() == [10, -10, 10]
    rows.reward[3, 2] = 1e9
    assert normalised_rewards(net, rows, alone).max() <= 10


def test_rewards_keep_their_mean_and_sign():
    net = make()
    rows = sample_rows(VECTOR, 50, 4)
    rows = rows._replace(reward=rows.reward + 5, state=net.initial_state(4))
    scaled = normalised_rewards(net, rows, alone)
    assert torch.equal(scaled.sign(), rows.reward[1:].sign())
    assert scaled.mean() > 0.1


def test_shares_of_a_batch_give_the_statistics_of_the_whole():
    whole, share = make(TREE), make(TREE)
    for batch in rollouts(TREE, 3, 4, 6, whole):
        halves = [batch.columns(slice(0, 2)), batch.columns(slice(2, 6))]

        def learn(net, rows, sum_over_ranks):
            scaled = normalised_rewards(net, rows, sum_over_ranks)
            observe(net, rows, sum_over_ranks)
            return scaled

        others = []
        learn_copy = make(TREE)
        learn_copy.load_state_dict(share.state_dict())
        learn(learn_copy, halves[1], lambda x, others=others: others.append(x) or x)
        other = iter(others)
        scaled = learn(share, halves[0], lambda x, other=other: x + next(other))
        expected = learn(whole, batch, alone)
        torch.testing.assert_close(scaled, expected[:, :2])
        torch.testing.assert_close(statistics(share), statistics(whole), rtol=1e-12, atol=1e-12)


def test_the_return_goes_on_across_rollouts_and_through_columns():
    net = make(normalize_observations=False)
    rows = sample_rows(VECTOR, 31, 4)
    total, expected = np.zeros(4), []
    for first, reward in zip(rows.first.numpy(), rows.reward.numpy(), strict=True):
        total = np.where(first, 0, 0.9 * total) + reward
        expected.append(total)
    state = net.initial_state(4)
    for start in range(0, 30, 5):
        batch = rows.rows(slice(start, start + 6))._replace(state=state)
        returns = net.discounted_returns(batch, batch.state)
        np.testing.assert_allclose(returns, expected[start : start + 6], rtol=1e-4, atol=1e-5)
        part = batch.columns(slice(1, 3))
        assert torch.equal(net.discounted_returns(part, part.state), returns[:, 1:3])
        if start % 10:  # row by row, or all at once
            _, state = net(batch.rows(slice(0, 5)), state)
        else:
            for t in range(5):
                _, state = net(batch.rows(slice(t, t + 1)), state)
        assert state["return"].shape == (1, 4, 1)
        np.testing.assert_allclose(
            state["return"].flatten(), expected[start + 4], rtol=1e-4, atol=1e-5
        )


def test_only_numbers_are_standardised():
    net = make(TREE)
    rows = sample_rows(TREE, 20, 3)
    observe(net, rows, alone)
    before = tree_map(torch.clone, rows.obs)
    obs = net._standardised(rows.obs)
    assert list(net.shapes) == [("double",), ("pair", 0)]
    torch.testing.assert_close(rows.obs, before, rtol=0, atol=0)
    for key in ("action_mask", "bool", "bytes", "code", "image"):
        assert obs[key] is rows.obs[key]
    assert obs["pair"][1] is rows.obs["pair"][1]
    for x in (obs["double"], obs["pair"][0]):
        assert x.dtype == torch.float32
        torch.testing.assert_close(x[:-1].mean((0, 1)), torch.zeros(x.shape[2:]), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            x[:-1].std((0, 1), correction=0), torch.ones(x.shape[2:]), atol=1e-4, rtol=0
        )
    output, _ = net(rows, net.initial_state(3))
    assert output.value.isfinite().all()


def test_numbers_far_from_0_keep_their_digits():
    spec = EnvSpec(spaces.Box(-np.inf, np.inf, (1,), np.float64), spaces.Discrete(2))
    net = make(spec)
    rows = sample_rows(spec, 200, 4)
    rows = rows._replace(obs=1e6 + torch.randn(200, 4, 1, dtype=torch.float64))
    for _ in range(3):
        observe(net, rows, alone)
    obs = net._standardised(rows.obs)
    torch.testing.assert_close(obs.std(), torch.tensor(1.0), rtol=0.05, atol=0)
    torch.testing.assert_close(obs.mean(), torch.tensor(0.0), atol=0.05, rtol=0)


def test_a_batch_that_is_not_finite_is_left_out():
    net = make()
    rows = sample_rows(VECTOR, 6, 2)
    observe(net, rows, alone)
    before = {key: x.clone() for key, x in statistics(net).items()}
    rows.obs[2, 1, 0] = torch.nan
    observe(net, rows, alone)
    torch.testing.assert_close(statistics(net), before, rtol=0, atol=0)


def test_single_transitions_need_no_state():
    net = make()
    rows = sample_rows(VECTOR, 1, 12)
    with_state, state = net(rows, net.initial_state(12))
    output, none = net(rows, ())
    assert none == ()
    assert torch.equal(output.logits, with_state.logits)
    assert set(state) == {"return", "model"}


@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("settings", [{}, BOTH])
def test_the_return_is_no_memory(settings, use_lstm):
    net = build(NetworkConfig(use_lstm=use_lstm, **settings), VECTOR)
    assert is_recurrent(net) == use_lstm


def test_other_models_are_left_alone():
    rows = sample_rows(VECTOR, 5, 2)
    for net in (make(normalize_observations=False, normalize_rewards=False), make().model):
        before = {key: x.clone() for key, x in net.state_dict().items()}
        assert torch.equal(normalised_rewards(net, rows, alone), rows.reward[1:])
        observe(net, rows, alone)
        torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    half = make(normalize_rewards=False)
    assert torch.equal(normalised_rewards(half, rows, alone), rows.reward[1:])
    assert half.initial_state(2) == ()
    observe(make(normalize_observations=False), rows, alone)


def test_statistics_lie_in_the_state_dict():
    net, other = make(), make()
    rows = sample_rows(VECTOR, 6, 2)
    rows = rows._replace(state=net.initial_state(2))
    observe(net, rows, alone)
    normalised_rewards(net, rows, alone)
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(statistics(other), statistics(net), rtol=0, atol=0)
    torch.testing.assert_close(
        other(rows, rows.state)[0].logits, net(rows, rows.state)[0].logits, rtol=0, atol=0
    )

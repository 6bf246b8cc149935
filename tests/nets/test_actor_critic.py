"""Policies with critics fit every observation, share an encoder and nothing else."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional

from torchbeast.data import EnvSpec
from torchbeast.data.replay import FrameStack
from torchbeast.nets import (
    NetworkConfig,
    Normalised,
    PolicyNet,
    build_actor_critic,
    is_recurrent,
    observe,
    unwrapped,
)

from .samples import sample_rows
from .test_policy_value import ATARI, OBSERVATIONS
from .test_user import ENCODER, HEAD, MODEL

BOX = spaces.Box(-2.0, 2.0, (3,))
VECTOR = EnvSpec(OBSERVATIONS["vector"], BOX)
FRAMES = EnvSpec(OBSERVATIONS["frames"], BOX)
OWN = EnvSpec(spaces.Box(-9, 9, (3, 2)), BOX)  # what the networks of test_user take
NUMBERS = {"outputs": 6, "action_size": 3, "members": 2, "numbers": 4}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def make(spec=VECTOR, config=None, **kind):
    torch.manual_seed(0)
    return build_actor_critic(NetworkConfig(**(config or {})), spec, **{**NUMBERS, **kind})


def count(module):
    return sum(p.numel() for p in module.parameters())


def convolutions(model):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_shapes_and_gradients_of_every_space(observation, layer_norm):
    spec = EnvSpec(OBSERVATIONS[observation], BOX)
    model, critics, _ = make(spec, layer_norm=layer_norm)
    assert isinstance(model, PolicyNet)
    assert not is_recurrent(model)
    assert model.initial_state(2) == ()
    rows = sample_rows(spec, 3, 2)
    numbers, state = model(rows, ())
    assert (numbers.shape, state) == ((3, 2, 6), ())
    features, _ = model(rows, (), encode=True)
    assert torch.equal(model.policy(features), numbers)
    q = critics(features[0], torch.randn(2, 3))
    assert q.shape == (2, 2, 4)
    (q * torch.randn_like(q)).sum().backward()
    assert all(p.grad is None for p in model.policy.parameters())
    (numbers * torch.randn_like(numbers)).sum().backward()
    for part in (model, critics):
        assert all(p.grad.isfinite().all() for p in part.parameters())


def test_the_mlp_equals_its_definition():
    model, critics, _ = make(config={"hidden_sizes": (8, 5), "activation": "relu"})
    assert not list(model.encoder.parameters())
    rows = sample_rows(VECTOR, 3, 2)
    weights = list(model.policy.parameters())
    assert [tuple(w.shape) for w in weights[::2]] == [(8, 4), (5, 8), (6, 5)]
    x = torch.relu(functional.linear(rows.obs, *weights[:2]))
    x = functional.linear(torch.relu(functional.linear(x, *weights[2:4])), *weights[4:])
    torch.testing.assert_close(model(rows, ())[0], x, **CLOSE)
    assert count(critics) == 2 * ((4 + 3 + 1) * 8 + 9 * 5 + 6 * 4)
    linear, linear_critics, _ = make(config={"hidden_sizes": ()})
    assert count(linear) == 5 * 6
    assert count(linear_critics) == 2 * 8 * 4


def test_critics_of_all_actions_at_once_see_none():
    model, critics, _ = make(
        EnvSpec(VECTOR.observation, spaces.Discrete(5)), action_size=0, numbers=5
    )
    features, _ = model(sample_rows(VECTOR, 1, 7), (), encode=True)
    assert critics(features[0], None).shape == (2, 7, 5)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_layer_norm_is_the_critics_alone(layer_norm):
    model, critics, _ = make(layer_norm=layer_norm)
    assert (critics.norms is not None) == layer_norm
    assert model.policy.hidden.norms is None


@pytest.mark.parametrize(
    ("network", "action", "expected"),
    [
        ("auto", BOX, [(32, 3, 2)] + [(32, 3, 1)] * 3),
        ("drq", spaces.Discrete(6), [(32, 3, 2)] + [(32, 3, 1)] * 3),
        ("auto", spaces.Discrete(6), [(32, 8, 4), (64, 4, 2), (64, 3, 1)]),
        ("shallow", BOX, [(32, 8, 4), (64, 4, 2), (64, 3, 1)]),
    ],
)
def test_which_convolutions(network, action, expected):
    model, _, _ = make(EnvSpec(FRAMES.observation, action), {"network": network})
    found = [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions(model)]
    assert found == expected
    assert convolutions(model) == convolutions(model.encoder)


def test_pictures_equal_their_definition():
    """DrQ: four convolutions, and for policy and critics a bottleneck of its own each."""
    model, critics, _ = make(FRAMES, {"hidden_sizes": (9,)})
    rows = sample_rows(FRAMES, 1, 3)
    x = rows.obs[0] / 255
    for layer in convolutions(model):
        x = torch.relu(functional.conv2d(x, layer.weight, layer.bias, layer.stride))
    x = x.flatten(1)
    features = model(rows, (), encode=True)[0][0]
    torch.testing.assert_close(features, x, **CLOSE)

    def few(bottleneck):
        linear, norm, _ = bottleneck
        return torch.tanh(norm(linear(x)))

    policy = model.policy
    hidden = torch.tanh(policy.hidden.layers[0](few(policy.bottleneck)))
    torch.testing.assert_close(model(rows, ())[0][0], policy.last(hidden), **CLOSE)
    action = torch.randn(3, 3)
    together = torch.cat([few(critics.bottleneck), action], -1)
    hidden = torch.tanh(together @ critics.layers[0].weight[1] + critics.layers[0].bias[1])
    q = hidden @ critics.last.weight[1] + critics.last.bias[1]
    torch.testing.assert_close(critics(features, action)[1], q, **CLOSE)
    assert not torch.equal(policy.bottleneck[0].weight, critics.bottleneck[0].weight)


def test_frame_stacks_are_stacked():
    spec = EnvSpec(spaces.Dict({"view": ATARI, "speed": spaces.Box(-9, 9, (4, 1))}), BOX)
    model, _, _ = make(spec, {"network": "shallow", "normalize_observations": True})
    frames = {"view": torch.randint(0, 256, (9, 84, 84), dtype=torch.uint8)}
    frames["speed"] = torch.randn(9, 1)
    index = torch.randint(0, 9, (2, 3, 4))
    rows = sample_rows(spec, 2, 3)
    lazy = rows._replace(obs={key: FrameStack(x, index) for key, x in frames.items()})
    whole = rows._replace(obs={key: x[index] for key, x in frames.items()})
    observe(model, lazy, lambda x: x)
    for encode in (False, True):
        assert torch.equal(model(lazy, (), encode=encode)[0], model(whole, (), encode=encode)[0])


def test_the_share_of_random_actions_travels_with_the_weights():
    for config in ({}, {"normalize_observations": True}):
        model, other = make(config=config)[0], make(config=config)[0]
        assert unwrapped(model).random == 1
        unwrapped(model).random.zero_()
        other.load_state_dict(model.state_dict())
        assert unwrapped(other).random == 0
        assert unwrapped(copy.deepcopy(model)).random == 0


def test_normalised_observations():
    model, _, _ = make(config={"normalize_observations": True})
    assert isinstance(model, Normalised)
    assert isinstance(unwrapped(model), PolicyNet)
    rows = sample_rows(VECTOR, 400, 2)
    rows.obs.mul_(3).add_(torch.tensor([5.0, 0.0, -9.0, 100.0]))
    before, state = model(rows, ())
    assert state == ()
    torch.testing.assert_close(model(rows, (), encode=True)[0], rows.obs.clamp(-10, 10))
    observe(model, rows, lambda x: x)
    after, _ = model(rows, ())
    assert not torch.equal(before, after)
    features, _ = model(rows, (), encode=True)  # what critics see, too
    seen = rows.obs[:-1].flatten(0, 1)
    expected = (rows.obs - seen.mean(0)) / seen.std(0, correction=0)
    torch.testing.assert_close(features, expected, **CLOSE)
    assert torch.equal(unwrapped(model).policy(features), after)


def test_bf16_stays_near_and_answers_floats():
    rows = sample_rows(VECTOR, 3, 2)
    exact, near = make()[0](rows, ())[0], make(config={"precision": "bf16"})[0](rows, ())[0]
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0.02)


def test_bf16_reaches_convolutions_and_bottlenecks_but_no_last_layer():
    model, critics, _ = make(FRAMES, {"precision": "bf16"})
    seen = {}
    parts = [*convolutions(model), *model.policy.modules(), *critics.modules()]
    for part in parts:
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(lambda part, _, out: seen.update({part: out.dtype}))
    rows = sample_rows(FRAMES, 1, 2)
    numbers, _ = model(rows, ())
    features, _ = model(rows, (), encode=True)
    q = critics(features[0], torch.randn(2, 3))
    assert numbers.dtype == features.dtype == q.dtype == torch.float32
    assert seen.pop(model.policy.last) == torch.float32
    assert len(seen) == 4 + 2
    assert set(seen.values()) == {torch.bfloat16}


@pytest.mark.parametrize(
    ("observation", "network", "expected"),
    [
        (FRAMES.observation, "auto", True),
        (FRAMES.observation, "mlp", False),
        (spaces.Box(0, 10, (19, 19, 3), np.uint8), "auto", False),  # a grid of codes, not a picture
        (VECTOR.observation, "auto", False),
    ],
)
def test_what_is_a_picture(observation, network, expected):
    assert make(EnvSpec(observation, BOX), {"network": network}).pictures == expected


@pytest.fixture
def write(tmp_path):
    def write(code, old="", new=""):
        path = tmp_path / "net.py"
        path.write_text(HEAD + code.replace(old, new))
        return f"{path}:Net"

    return write


def test_a_users_encoder(write):
    model, critics, _ = make(OWN, {"network": write(ENCODER), "hidden_sizes": (8,)})
    assert model.policy.bottleneck is None
    assert critics.bottleneck is None
    assert critics.layers[0].weight.shape == (2, 5 + 3, 8)
    rows = sample_rows(OWN, 3, 2)
    features, _ = model(rows, (), encode=True)
    assert features.shape == (3, 2, 5)
    critics(features[0], torch.zeros(2, 3)).sum().backward()
    assert model.encoder.linear.weight.grad.any()
    assert model(rows, ())[0].shape == (3, 2, 6)


def test_what_does_not_fit_is_one_clear_error():
    mask = spaces.Dict({"action_mask": spaces.MultiBinary(6), "x": VECTOR.observation})
    with pytest.raises(ValueError, match=r"without action_mask, got Dict.*ppo, impala"):
        make(EnvSpec(mask, spaces.Discrete(6)), action_size=0)
    with pytest.raises(ValueError, match=r"no --use_lstm with an algorithm.*r2d2 have memory"):
        make(config={"use_lstm": True})
    with pytest.raises(ValueError, match=r"no --normalize_rewards .*--reward_scale"):
        make(config={"normalize_rewards": True})
    for wrong in ({"state_dependent_std": True}, {"log_std_init": -1.0}):
        with pytest.raises(ValueError, match="no --state_dependent_std or --log_std_init"):
            make(config=wrong)
    with pytest.raises(ValueError, match="expected image observations for --network drq"):
        make(config={"network": "drq"})
    small = EnvSpec(spaces.Box(0, 255, (3, 15, 15), np.uint8), BOX)
    with pytest.raises(ValueError, match="at least 16x16 pixels for --network drq"):
        make(small, {"network": "drq"})


def test_mistakes_of_a_users_network_show_at_the_start(write):
    discrete = EnvSpec(OWN.observation, spaces.Discrete(6))
    with pytest.raises(ValueError, match=r"--network .*net\.py:Net to have out_features"):
        make(discrete, {"network": write(MODEL)})


def test_an_encoder_that_gives_other_features_shows_at_the_start(write):
    with pytest.raises(ValueError, match=r"float32 features \[3, 2, 7\]"):
        make(OWN, {"network": write(ENCODER, "out_features = 5", "out_features = 7")})

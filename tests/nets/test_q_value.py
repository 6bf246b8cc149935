"""The network of Q-learning fits every observation and is what its settings say."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional

from torchbeast.data import EnvSpec
from torchbeast.data.replay import FrameStack
from torchbeast.nets import NetworkConfig, Normalised, QNet, build_q, is_recurrent, unwrapped
from torchbeast.nets.noisy import NoisyLinear
from torchbeast.nets.normalise import observe

from .samples import sample_rows
from .test_policy_value import ATARI, OBSERVATIONS
from .test_user import ENCODER, HEAD, MODEL

SIX = spaces.Discrete(6)
VECTOR = EnvSpec(OBSERVATIONS["vector"], SIX)
FRAMES = EnvSpec(OBSERVATIONS["frames"], SIX)
OWN = EnvSpec(spaces.Box(-9, 9, (3, 2)), SIX)  # what the networks of test_user take
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
KINDS = {
    "plain": {},
    "rainbow": {"numbers": 5, "dueling": True, "noisy": True},
    "iqn": {"implicit": True, "dueling": True},
    "pqn": {"layer_norm": True},
}


def make(spec=VECTOR, config=None, **kind):
    torch.manual_seed(0)
    return build_q(NetworkConfig(**(config or {})), spec, **kind)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_shapes_and_gradients_of_every_space(observation, use_lstm, kind):
    spec = EnvSpec(OBSERVATIONS[observation], SIX)
    net = make(spec, {"use_lstm": use_lstm}, **KINDS[kind])
    assert isinstance(net, QNet)
    assert is_recurrent(net) == use_lstm
    rows = sample_rows(spec, 3, 2)
    taus = torch.rand(3, 2, 4) if kind == "iqn" else None
    answer, state = net(rows, net.initial_state(2), taus=taus)
    numbers = {"rainbow": 5, "iqn": 4}.get(kind, 1)
    assert answer.numbers.shape == (3, 2, 6, numbers)
    assert answer.allowed is None
    assert len(state) == (2 if use_lstm else 0)
    (answer.numbers * torch.randn_like(answer.numbers)).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_parameter_counts_are_those_of_the_published_networks():
    nature = 4 * 8 * 8 * 32 + 32 + 32 * 4 * 4 * 64 + 64 + 64 * 3 * 3 * 64 + 64
    spec = EnvSpec(ATARI, SIX)
    assert count(make(spec)) == nature + 3137 * 512 + 513 * 6
    assert count(make(spec, numbers=51)) == nature + 3137 * 512 + 513 * 6 * 51
    dueling = nature + 2 * 3137 * 512 + 513 * 7
    assert count(make(spec, dueling=True)) == dueling
    assert count(make(spec, dueling=True, noisy=True)) == nature + 2 * (dueling - nature)
    assert count(make(spec, implicit=True)) == nature + 65 * 3136 + 3137 * 512 + 513 * 6
    core = {"use_lstm": True, "lstm_size": 512}
    lstm = 4 * 512 * (512 + 6 + 1 + 512 + 2)
    r2d2 = nature + 3137 * 512 + lstm + 2 * 513 * 512 + 513 * 7
    assert count(make(spec, core, dueling=True)) == r2d2
    minatar = EnvSpec(OBSERVATIONS["minatar"], SIX)
    assert count(make(minatar)) == 6 * 9 * 16 + 16 + 1025 * 128 + 129 * 6
    sizes = {"hidden_sizes": (120, 84)}
    assert count(make(config=sizes)) == 5 * 120 + 121 * 84 + 85 * 6
    assert count(make(config={"hidden_sizes": ()})) == 5 * 6


def test_the_mlp_equals_its_definition():
    net = make(config={"hidden_sizes": (8, 5), "activation": "tanh"})
    rows = sample_rows(VECTOR, 3, 2)
    weights = list(net.parameters())
    x = torch.tanh(functional.linear(rows.obs, *weights[:2]))
    x = functional.linear(torch.tanh(functional.linear(x, *weights[2:4])), *weights[4:])
    torch.testing.assert_close(net(rows, ())[0].numbers.squeeze(-1), x, **CLOSE)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("network", ["shallow", "small", "deep"])
def test_convolutions_equal_their_definition(network, layer_norm):
    net = make(FRAMES, {"network": network}, layer_norm=layer_norm)
    rows = sample_rows(FRAMES, 2, 2)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    hidden, last = net.head.actions.layers[0], net.head.actions.last

    def activate(x):
        if layer_norm:
            x = functional.layer_norm(x.contiguous(), x.shape[1:])
        return torch.relu(x)

    def conv(x, layer):
        return functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)

    x = rows.obs.flatten(0, 1) / 255
    if network == "deep":
        for section in range(3):
            x = functional.max_pool2d(conv(x, convs[5 * section]), 3, 2, 1)
            for one, two in (convs[5 * section + i : 5 * section + i + 2] for i in (1, 3)):
                x = x + conv(activate(conv(activate(x), one)), two)
        x = activate(x)
    else:
        for layer in convs:
            x = activate(conv(x, layer))
    x = last(activate(hidden(x.flatten(1)))).view(2, 2, 6, 1)
    torch.testing.assert_close(net(rows, ())[0].numbers, x, **CLOSE)


@pytest.mark.parametrize("spec", [VECTOR, FRAMES])
def test_layers_begin_as_pytorchs_do(spec):
    for layer in make(spec).modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            assert bound * 0.7 < layer.weight.abs().max() <= bound
            assert layer.bias.abs().max() > 0


def test_noise_only_where_it_is_wanted():
    net = make(noisy=True, dueling=True)
    target = copy.deepcopy(net)
    rows = sample_rows(VECTOR, 3, 2)

    def ask(model, noise):
        return model(rows, (), noise=noise)[0].numbers

    assert not torch.equal(ask(net, True), ask(net, True))
    assert not torch.equal(ask(net, True), ask(target, True))
    assert torch.equal(ask(net, False), ask(net, False))
    assert torch.equal(ask(net, False), ask(target, False))
    noisy = {name for name, m in net.named_modules() if isinstance(m, NoisyLinear)}
    linear = {name for name, m in net.named_modules() if isinstance(m, nn.Linear)}
    assert linear - noisy == {"encoder.mlp.layers.0"}


@pytest.mark.parametrize("spec", [VECTOR, FRAMES])
def test_memory_row_by_row_equals_the_unroll(spec):
    net = make(spec, {"use_lstm": True, "lstm_size": 16})
    rows = sample_rows(spec, 12, 3)
    unrolled, last = net(rows, net.initial_state(3))
    state, outputs = net.initial_state(3), []
    with torch.inference_mode():
        for t in range(12):
            answer, state = net(rows.rows(slice(t, t + 1)), state)
            outputs.append(answer.numbers)
    torch.testing.assert_close(torch.cat(outputs), unrolled.numbers, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-6)


def test_nothing_crosses_the_first_row_of_an_episode_bitwise():
    net = make(FRAMES, {"use_lstm": True})
    rows = sample_rows(FRAMES, 8, 2)
    rows.first.zero_()
    rows.first[4, 0] = True
    before = net(rows, net.initial_state(2))[0].numbers
    rows.obs[:4, 0] = 255 - rows.obs[:4, 0]
    rows.reward[:4, 0] *= -1
    after = net(rows, net.initial_state(2))[0].numbers
    assert not torch.equal(before[3, 0], after[3, 0])
    assert torch.equal(before[4:], after[4:])


def test_only_the_memory_sees_the_previous_action_and_the_whole_reward():
    rows = sample_rows(VECTOR, 1, 1)._replace(reward=torch.tensor([[7.0]]))
    other = rows._replace(reward=torch.tensor([[9.0]]))
    moved = rows._replace(prev_action=(rows.prev_action + 1) % 6)
    for use_lstm in (False, True):
        net = make(config={"use_lstm": use_lstm})
        a, b, c = (net(r, net.initial_state(1))[0].numbers for r in (rows, other, moved))
        assert torch.equal(a, b) != use_lstm
        assert torch.equal(a, c) != use_lstm


def test_sizes_of_the_memory():
    for spec, config, shape in (
        (VECTOR, {"hidden_sizes": (9, 7)}, (1, 5, 7)),
        (VECTOR, {"hidden_sizes": (9, 7), "lstm_size": 8, "lstm_layers": 2}, (2, 5, 8)),
        (FRAMES, {}, (1, 5, 256)),
    ):
        state = make(spec, {"use_lstm": True, **config}).initial_state(5)
        assert [tuple(part.shape) for part in state] == [shape, shape]


def test_the_mask_says_what_is_allowed_and_is_not_seen():
    mask = spaces.Box(0, 1, (6,), np.float32)
    spec = EnvSpec(spaces.Dict({"action_mask": mask, "x": VECTOR.observation}), SIX)
    net = make(spec)
    rows = sample_rows(spec, 2, 2)
    rows.obs["action_mask"][:] = torch.tensor([0.0, 1.0, 0.0, 0.5, 1.0, 0.0])
    answer, _ = net(rows, ())
    assert answer.allowed.tolist() == [[[False, True, False, True, True, False]] * 2] * 2
    rows.obs["action_mask"].zero_()
    assert torch.equal(net(rows, ())[0].numbers, answer.numbers)


def test_epsilon_travels_with_the_weights():
    net, other = make(), make()
    rows = sample_rows(VECTOR, 1, 2)
    epsilon = net(rows, ())[0].epsilon
    assert (epsilon.shape, epsilon.dtype, epsilon.item()) == ((), torch.float32, 1.0)
    net.epsilon.fill_(0.25)
    other.load_state_dict(net.state_dict())
    assert other(rows, ())[0].epsilon == 0.25
    assert copy.deepcopy(net).epsilon == 0.25


@pytest.mark.parametrize("normalize", [False, True])
def test_frame_stacks_are_stacked(normalize):
    spec = EnvSpec(spaces.Dict({"view": ATARI, "speed": spaces.Box(-9, 9, (4, 1))}), SIX)
    net = make(spec, {"normalize_observations": normalize})
    frames = {"view": torch.randint(0, 256, (9, 84, 84), dtype=torch.uint8)}
    frames["speed"] = torch.randn(9, 1)
    index = torch.randint(0, 9, (2, 3, 4))
    rows = sample_rows(spec, 2, 3)
    lazy = rows._replace(obs={key: FrameStack(x, index) for key, x in frames.items()})
    whole = rows._replace(obs={key: x[index] for key, x in frames.items()})
    observe(net, lazy, lambda x: x)
    assert torch.equal(net(lazy, ())[0].numbers, net(whole, ())[0].numbers)


def test_bf16_stays_near_and_answers_floats():
    rows = sample_rows(FRAMES, 2, 2)
    exact = make(FRAMES)(rows, ())[0].numbers
    near = make(FRAMES, {"precision": "bf16"})(rows, ())[0].numbers
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0.01)


def test_normalised_observations():
    net = make(config={"normalize_observations": True}, noisy=True, implicit=True)
    assert isinstance(net, Normalised)
    assert isinstance(unwrapped(net), QNet)
    assert unwrapped(unwrapped(net)) is unwrapped(net)
    rows = sample_rows(VECTOR, 9, 2)
    taus = torch.rand(9, 2, 4)
    before, state = net(rows, net.initial_state(2), noise=False, taus=taus)
    assert state == ()
    observe(net, rows, lambda x: x)
    after, _ = copy.deepcopy(net)(rows, (), noise=False, taus=taus)
    assert not torch.equal(before.numbers, after.numbers)
    assert torch.equal(net(rows, (), noise=False, taus=taus)[0].numbers, after.numbers)


@pytest.fixture
def write(tmp_path):
    def write(code, old="", new=""):
        path = tmp_path / "net.py"
        path.write_text(HEAD + code.replace(old, new))
        return f"{path}:Net"

    return write


@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_users_encoder(write, use_lstm, masked):
    both = spaces.Dict({"action_mask": spaces.MultiBinary(6), "x": OWN.observation})
    spec = EnvSpec(both, SIX) if masked else OWN
    name = write(ENCODER, "(obs.", "(obs['x'].") if masked else write(ENCODER)
    net = make(spec, {"network": name, "use_lstm": use_lstm}, dueling=True, noisy=True)
    assert is_recurrent(net) == use_lstm
    assert net.head.actions.layers[0].out_features == 5
    rows = sample_rows(spec, 3, 2)
    answer, _ = net(rows, net.initial_state(2))
    assert (answer.allowed is not None) == masked
    answer.numbers.square().sum().backward()
    assert net.encoder.linear.weight.grad.any()


def test_the_hidden_layer_behind_wide_features_is_narrower(write):
    net = make(OWN, {"network": write(ENCODER.replace("= 5", "= 600"), "6, 5", "6, 600")})
    assert net.head.actions.layers[0].out_features == 512


def test_what_does_not_fit_is_one_clear_error(write):
    for action in (spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2,))):
        with pytest.raises(ValueError, match=r"expected Discrete actions.*got.*\(ppo, sac"):
            make(EnvSpec(VECTOR.observation, action))
    with pytest.raises(ValueError, match="no --normalize_rewards with Q-learning"):
        make(config={"normalize_rewards": True})
    with pytest.raises(ValueError, match=r"--network .*net\.py:Net to have out_features"):
        make(OWN, {"network": write(MODEL)})
    with pytest.raises(ValueError, match="expected image observations for --network shallow"):
        make(config={"network": "shallow"})

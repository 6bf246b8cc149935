"""The networks fit every space, count as the ancestors', and act as they learn."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from torchbeast.data import EnvSpec
from torchbeast.nets import NetworkConfig, build, choose
from torchbeast.nets.encoders import TreeEncoder, image_shape
from torchbeast.ops import Categorical, MultiCategorical

from .samples import sample_rows

ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)
SIX = spaces.Discrete(6)
OBSERVATIONS = {
    "vector": spaces.Box(-np.inf, np.inf, (4,), np.float32),
    "double": spaces.Box(-1, 1, (2, 3), np.float64),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "integers": spaces.Box(0, 9, (3,), np.int64),
    "ram": spaces.Box(0, 255, (128,), np.uint8),
    "discrete": spaces.Discrete(5, start=-2),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "grid_discrete": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "multi_binary": spaces.MultiBinary(4),
    "minigrid": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "frames": spaces.Box(0, 255, (4, 44, 36), np.uint8),
    "frames_last": spaces.Box(0, 255, (40, 36, 3), np.uint8),
    "minatar": spaces.Box(0, 1, (10, 10, 6), np.bool_),
    "small_floats": spaces.Box(0, 1, (2, 8, 5), np.float64),
    "bools": spaces.Box(0, 1, (3, 2), np.bool_),
    "ints": spaces.Box(-9, 9, (2, 3, 2, 1), np.int32),
    "half": spaces.Box(-1, 1, (3,), np.float16),
    "gray": spaces.Box(0, 255, (40, 40), np.uint8),
    "float_frames": spaces.Box(0, 1, (3, 36, 36), np.float32),
    "tree": spaces.Dict(
        {
            "view": spaces.Box(0, 255, (36, 36, 3), np.uint8),
            "rest": spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,))]),
        }
    ),
}
ACTIONS = {"discrete": SIX, "multi_discrete": spaces.MultiDiscrete([2, 3])}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_shapes_and_gradients_of_every_space(observation, action, use_lstm):
    spec = EnvSpec(OBSERVATIONS[observation], ACTIONS[action])
    net = build(NetworkConfig(use_lstm=use_lstm), spec)
    rows = sample_rows(spec, 3, 2)
    output, state = net(rows, net.initial_state(2))
    assert output.logits.shape == (3, 2, 6 if action == "discrete" else 5)
    assert output.value.shape == (3, 2)
    assert len(state) == (2 if use_lstm else 0)
    distribution = net.distribution(output.logits)
    kind = Categorical if action == "discrete" else MultiCategorical
    assert isinstance(distribution, kind)
    assert distribution.sample().shape == rows.prev_action.shape
    (output.logits.square().sum() + output.value.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(
    ("observation", "network"),
    [
        ("frames", "shallow"),
        ("gray", "shallow"),
        ("float_frames", "shallow"),
        ("tree", "shallow"),
        ("minatar", "small"),
        ("small_floats", "small"),
        ("minigrid", "mlp"),
        ("ints", "mlp"),
        ("vector", "mlp"),
        ("discrete", "mlp"),
    ],
)
def test_auto_is_the_network_that_fits(observation, network):
    assert choose("auto", OBSERVATIONS[observation]) == network


def test_the_small_network_equals_its_definition():
    torch.manual_seed(0)
    spec = EnvSpec(OBSERVATIONS["minatar"], SIX)
    net = build(NetworkConfig(), spec)
    conv, linear = net.encoder.leaves[0].torso.convs[0], net.encoder.leaves[0].torso.linear
    assert (conv.out_channels, linear.out_features) == (16, 128)
    rows = sample_rows(spec, 3, 2)
    x = rows.obs.flatten(0, 1).permute(0, 3, 1, 2).float()
    x = torch.relu(torch.nn.functional.conv2d(x, conv.weight, conv.bias))
    x = torch.relu(linear(x.flatten(1))).view(3, 2, 128)
    torch.testing.assert_close(net.encoder(rows.obs), x, rtol=1e-5, atol=1e-6)


def test_parameter_counts_are_the_ancestors():
    spec = EnvSpec(ATARI, SIX)
    assert count(build(NetworkConfig(), spec)) == 1_687_768
    lstm = NetworkConfig(use_lstm=True, lstm_size=519, lstm_layers=2)  # MonoBeast's --use_lstm
    assert count(build(lstm, spec)) == 6_005_848
    # PolyBeast leaves the previous action out (1,091,038); here every core gets it: 6 inputs more
    # for the 6 logits and the value, or for the 4 x 256 gates of the LSTM (1,618,391).
    assert count(build(NetworkConfig(network="deep"), spec)) == 1_091_038 + 6 * 7
    deep = NetworkConfig(network="deep", use_lstm=True)
    assert count(build(deep, spec)) == 1_618_391 + 6 * 4 * 256


@pytest.mark.parametrize("network", ["shallow", "mlp"])
def test_acting_row_by_row_equals_the_unroll(network):
    observation = OBSERVATIONS["frames" if network == "shallow" else "vector"]
    spec = EnvSpec(observation, SIX)
    torch.manual_seed(0)
    net = build(NetworkConfig(network=network, use_lstm=True, lstm_size=16), spec)
    rows = sample_rows(spec, 12, 3)
    unrolled, last = net(rows, net.initial_state(3))
    state, outputs = net.initial_state(3), []
    with torch.inference_mode():
        for t in range(12):
            output, state = net(rows.rows(slice(t, t + 1)), state)
            outputs.append(output)
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.cat([o.logits for o in outputs]), unrolled.logits, **close)
    torch.testing.assert_close(torch.cat([o.value for o in outputs]), unrolled.value, **close)
    torch.testing.assert_close(state, last, **close)


@pytest.mark.parametrize("use_lstm", [False, True])
def test_nothing_crosses_the_first_row_of_an_episode_bitwise(use_lstm):
    spec = EnvSpec(OBSERVATIONS["frames"], SIX)
    net = build(NetworkConfig(use_lstm=use_lstm), spec)
    rows = sample_rows(spec, 8, 2)
    rows.first.zero_()
    rows.first[4, 0] = True
    before, _ = net(rows, net.initial_state(2))
    rows.obs[:4, 0] = 255 - rows.obs[:4, 0]
    rows.reward[:4, 0] *= -1
    after, _ = net(rows, net.initial_state(2))
    assert not torch.equal(before.value[3, 0], after.value[3, 0])
    assert torch.equal(before.logits[4:], after.logits[4:])
    assert torch.equal(before.value[4:], after.value[4:])


@pytest.mark.parametrize("network", ["shallow", "deep"])
def test_frames_in_any_layout_and_chunk_give_the_same(network):
    torch.manual_seed(0)
    spec = EnvSpec(OBSERVATIONS["frames"], SIX)
    net = build(NetworkConfig(network=network), spec)
    torso = net.encoder.leaves[0].torso
    frames = torch.randint(0, 256, (7, 4, 44, 36), dtype=torch.uint8)
    whole = torso(frames)
    torso.chunk = 3
    torch.testing.assert_close(torso(frames), whole, rtol=1e-5, atol=1e-6)
    stacked = frames.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(torso(stacked), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torso(frames / 255), whole, rtol=1e-5, atol=1e-6)


def test_the_shallow_torso_equals_its_definition():
    torch.manual_seed(0)
    net = build(NetworkConfig(), EnvSpec(ATARI, SIX))
    torso = net.encoder.leaves[0].torso
    frames = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    x = frames.float() / 255
    for conv, stride in zip([torso.convs[i] for i in (0, 2, 4)], (4, 2, 1), strict=True):
        x = torch.relu(torch.nn.functional.conv2d(x, conv.weight, conv.bias, stride))
    x = torch.relu(torso.linear(x.reshape(3, -1)))
    torch.testing.assert_close(torso(frames), x, rtol=1e-5, atol=1e-6)


def test_the_deep_torso_equals_its_definition_with_its_gradient():
    torch.manual_seed(0)
    net = build(NetworkConfig(network="deep"), EnvSpec(OBSERVATIONS["frames"], SIX))
    torso = net.encoder.leaves[0].torso
    frames = torch.randint(0, 256, (3, 4, 44, 36), dtype=torch.uint8)
    relu, convs = torch.relu, torso.convs

    def conv(x, layer):
        return torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)

    x = frames.float() / 255
    for section in range(3):
        x = conv(x, convs[4 * section])
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        for residual in (convs[4 * section + 2], convs[4 * section + 3]):
            x = x + conv(relu(conv(relu(x), residual.conv1)), residual.conv2)
    slow = relu(torso.linear(relu(x).reshape(3, -1)))
    fast = torso(frames)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    parameters = list(torso.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(fast.square().sum(), parameters),
        torch.autograd.grad(slow.square().sum(), parameters),
        rtol=1e-4,
        atol=1e-5,
    )


def test_reward_and_previous_action_reach_the_core_clipped_and_one_hot():
    spec = EnvSpec(OBSERVATIONS["frames"], SIX)
    net = build(NetworkConfig(), spec)
    rows = sample_rows(spec, 1, 1)
    with torch.no_grad():
        for parameter in net.encoder.parameters():
            parameter.zero_()
        net.value.bias.zero_()
        net.value.weight.copy_(torch.arange(519.0))
        rows = rows._replace(reward=torch.tensor([[7.0]]), prev_action=torch.tensor([[2]]))
        output, _ = net(rows, ())
    assert output.value.item() == 512 + 513 + 2


def test_without_memory_an_mlp_sees_the_observation_alone():
    spec = EnvSpec(OBSERVATIONS["vector"], SIX)
    net = build(NetworkConfig(), spec)
    assert count(net) == 2 * (4 * 64 + 64 + 64 * 64 + 64) + 65 * 6 + 65
    output, _ = net(sample_rows(spec, 1, 5), ())
    assert output.logits.abs().max() < 0.1  # nearly uniform at the start


def test_sizes_of_the_memory():
    vector = EnvSpec(OBSERVATIONS["vector"], SIX)
    frames = EnvSpec(OBSERVATIONS["frames"], SIX)
    for spec, config, shape in (
        (vector, NetworkConfig(use_lstm=True), (1, 5, 64)),
        (frames, NetworkConfig(use_lstm=True), (1, 5, 256)),
        (vector, NetworkConfig(use_lstm=True, lstm_size=8, lstm_layers=2), (2, 5, 8)),
    ):
        state = build(config, spec).initial_state(5)
        assert [tuple(part.shape) for part in state] == [shape, shape]
        assert all(not part.any() for part in state)


def test_leaves_are_encoded_by_hand():
    space = spaces.Dict(
        {
            "a": spaces.Discrete(3, start=5),
            "b": spaces.MultiDiscrete([2, 3]),
            "c": spaces.Box(0, 255, (2,), np.uint8),
            "d": spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-9, 9, (1,), np.float64)]),
        }
    )
    tree = {
        "a": torch.tensor([[6]]),
        "b": torch.tensor([[[1, 0]]]),
        "c": torch.tensor([[[51, 255]]], dtype=torch.uint8),
        "d": (torch.tensor([[[1, 0]]], dtype=torch.int8), torch.tensor([[[-2.5]]]).double()),
    }
    features = TreeEncoder(space)(tree)
    assert features.dtype == torch.float32
    expected = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0, 0.2, 1, 1, 0, -2.5])
    torch.testing.assert_close(features[0, 0], expected)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 84, 84), (4, 84, 84)),
        ((210, 160, 3), (3, 210, 160)),
        ((84, 84), (1, 84, 84)),
        ((3, 64, 4), (3, 64, 4)),
        ((64, 48, 3), (3, 64, 48)),
        ((10, 10, 6), (6, 10, 10)),  # MinAtar has more channels than an image has colours
        ((12, 10, 10), (12, 10, 10)),
        ((5, 5, 5), (5, 5, 5)),
        ((9, 20, 9), (9, 9, 20)),
    ],
)
def test_channels_are_recognised(shape, expected):
    assert image_shape(spaces.Box(0, 255, shape, np.uint8)) == expected


@pytest.mark.parametrize(
    ("network", "observation", "message"),
    [
        ("shallow", "vector", "expected image observations for --network shallow.*--network mlp"),
        ("deep", "discrete", "expected image observations for --network deep"),
        ("small", "ints", "expected image observations for --network small"),
        ("shallow", "minigrid", "at least 36x36 pixels for --network shallow.*--network deep"),
    ],
)
def test_a_network_that_does_not_fit_is_one_clear_error(network, observation, message):
    with pytest.raises(ValueError, match=message) as error:
        build(NetworkConfig(network=network), EnvSpec(OBSERVATIONS[observation], SIX))
    assert "\n" not in str(error.value)


def test_actions_without_a_head_are_one_clear_error():
    with pytest.raises(ValueError, match=r"expected actions of Discrete.*got Text"):
        build(NetworkConfig(), EnvSpec(OBSERVATIONS["vector"], spaces.Text(9)))


def test_a_network_that_is_none_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"got 'depp'; did you mean deep\?"):
        build(NetworkConfig(network="depp"), EnvSpec(ATARI, SIX))


def test_observations_without_a_shape_are_one_clear_error():
    with pytest.raises(ValueError, match=r"expected observations of Box.*Text"):
        build(NetworkConfig(), EnvSpec(spaces.Dict({"mission": spaces.Text(9)}), SIX))

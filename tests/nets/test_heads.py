"""Heads: every action space gets a distribution, and a mask leaves no way around it."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from torch import distributions as td

from torchbeast.data import EnvSpec, rollout_spec, tree_leaves, tree_map, zero_rows
from torchbeast.data.slots import Slot
from torchbeast.nets import NetworkConfig, build
from torchbeast.nets.encoders import action_encoder
from torchbeast.nets.heads import policy_head

from .samples import as_tree, sample_rows

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = {
    "discrete": spaces.Discrete(4),
    "multi": spaces.MultiDiscrete([2, 3]),
    "multi_int32": spaces.MultiDiscrete([2, 3], dtype=np.int32),
    "grid": spaces.MultiDiscrete([[2, 3, 4], [5, 6, 7]]),
    "binary": spaces.MultiBinary(3),
    "binary_grid": spaces.MultiBinary([2, 3]),
    "box": spaces.Box(-1, 1, (2,)),
    "box_grid": spaces.Box(-2, 3, (2, 2)),
    "box_scalar": spaces.Box(-1, 1, ()),
    "box_unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "box_half_open": spaces.Box(np.float32([-1, -np.inf]), np.float32([np.inf, 4])),
    "dict": spaces.Dict({"z": spaces.Discrete(3), "a": spaces.Box(0, 10, (2, 1))}),
    "tuple": spaces.Tuple([spaces.MultiBinary(2), spaces.Discrete(2)]),
    "nested": spaces.Dict(
        [
            ("z", spaces.Tuple([spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([[2], [3]])])),
            ("a.b", spaces.Dict({"items": spaces.MultiBinary(2)})),
        ]
    ),
}


def check_alike(x, like):
    assert (x.shape, x.dtype) == (like.shape, like.dtype)


class Takes(gymnasium.Env):
    """Takes actions of its space, and says what it got."""

    observation_space = VECTOR

    def __init__(self, space):
        self.action_space = space

    def reset(self, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(clip(self.action_space, action)), action
        return np.zeros(3, np.float32), 0.0, False, False, {}


def clip(space, action):
    """What the vector of environments does to actions of a Box."""
    if isinstance(space, spaces.Dict):
        return {key: clip(sub, action[key]) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(clip(sub, part) for sub, part in zip(space.spaces, action, strict=True))
    if isinstance(space, spaces.Box):
        return np.asarray(np.clip(action, space.low, space.high))
    return action


@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("name", ACTIONS)
def test_actions_go_through_slots_and_environments(name, use_lstm):
    torch.manual_seed(0)
    space = ACTIONS[name]
    spec = EnvSpec(VECTOR, space)
    net = build(NetworkConfig(use_lstm=use_lstm), spec)
    env = SyncVectorEnv([lambda: Takes(space)] * 5)
    env.reset()
    rows = sample_rows(spec, 1, 5)
    with torch.inference_mode():
        output, _ = net(rows, net.initial_state(5))
        policy = net.distribution(output.logits)
        action = policy.sample()
    for tree in (action, policy.mode()):
        tree_map(check_alike, tree, rows.action)
    extras = {"logits": output.logits}
    one = tree_map(lambda x: x[:, :1], (action, extras))
    answered = zero_rows(spec, 1)._replace(action=one[0], extras=one[1])
    slot = Slot(rollout_spec(answered), 1, 5)
    arrays = tree_map(lambda x: x.numpy()[0], (action, extras))
    slot.write_answer(0, tree_leaves(arrays))
    env.step(arrays[0])
    row = slot.row(0)
    again = net.distribution(row.extras["logits"]).log_prob(row.action)
    assert again.shape == (1, 5)
    torch.testing.assert_close(again, policy.log_prob(action))


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_parameters_get_gradients(name, state_dependent_std):
    torch.manual_seed(0)
    head = policy_head(4, ACTIONS[name], state_dependent_std)
    params = head(torch.randn(3, 2, 4))
    assert params.shape == (3, 2, head.out_features)
    policy = head.distribution(params)
    (policy.log_prob(policy.sample()) + policy.entropy()).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", ACTIONS)
def test_the_mode_lies_in_the_space_at_the_start(name):
    head = policy_head(4, ACTIONS[name])
    mode = head.distribution(head(torch.zeros(2, 3, 4)).detach()).mode()
    action = tree_map(lambda x: x[0, 0].numpy(), mode)
    assert ACTIONS[name].contains(as_numpy(ACTIONS[name], action))


def as_numpy(space, action):
    return tree_map(lambda x, leaf: np.asarray(x, leaf.dtype), action, as_tree(space.sample()))


def gaussian(low, high, **settings):
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    return policy_head(3, space, **settings)


def test_a_bounded_gaussian_is_one_between_minus_1_and_1_stretched():
    torch.manual_seed(0)
    head = gaussian([-1.0, 0.0, -np.inf], [1.0, 10.0, 5.0], log_std_init=-0.5)
    x = torch.randn(2, 7, 3)
    policy = head.distribution(head(x))
    unit = td.Normal(head.mean(x), math.exp(-0.5))
    scale, center = torch.tensor([1.0, 5.0, 1.0]), torch.tensor([0.0, 5.0, 0.0])
    action = torch.tensor([-3.0, 12.0, 99.0]).expand(2, 7, 3)  # out of bounds, and as it is
    expected = unit.log_prob((action - center) / scale) - scale.log()
    torch.testing.assert_close(policy.log_prob(action), expected.sum(-1))
    torch.testing.assert_close(policy.mode(), center + scale * head.mean(x))
    torch.testing.assert_close(policy.entropy(), (unit.entropy() + scale.log()).sum(-1))


def test_samples_of_a_gaussian_are_not_clipped():
    torch.manual_seed(0)
    head = gaussian([0.0], [1.0])
    action = head.distribution(head(torch.zeros(1000, 1, 3))).sample()
    assert action.dtype == torch.float32
    assert action.min() < 0
    assert action.max() > 1


def test_bounds_that_are_no_bounds():
    huge = float(np.finfo(np.float32).max)
    head = gaussian([-huge, 2.0], [huge, 2.0])  # unbounded in disguise, and no choice at all
    assert head.center.tolist() == [0, 0]
    assert head.half_range.tolist() == [1, 1]


def test_one_deviation_for_all_or_one_for_each_observation():
    torch.manual_seed(0)
    x = 30 * torch.randn(99, 1, 3)
    fixed = gaussian([-1.0] * 2, [1.0] * 2, log_std_init=0.25)
    log_std = fixed(x)[..., 2:]
    assert torch.equal(log_std, torch.full((99, 1, 2), 0.25))
    own = gaussian([-1.0] * 2, [1.0] * 2, state_dependent_std=True)
    log_std = own(x)[..., 2:]
    assert len(log_std.unique()) > 2
    assert log_std.min() == -20
    assert log_std.max() == 2


def test_box_actions_of_integers_are_refused():
    with pytest.raises(ValueError, match=r"expected Box actions of floats.*MultiDiscrete"):
        policy_head(3, spaces.Box(0, 5, (2,), np.int64))


@pytest.mark.parametrize("space", [spaces.Dict({}), spaces.Tuple([])])
def test_a_space_without_actions_is_refused(space):
    with pytest.raises(ValueError, match="expected actions of Discrete"):
        policy_head(3, space)


def masked_spec(action, size, **others):
    mask = spaces.MultiBinary(size)
    return EnvSpec(spaces.Dict({"action_mask": mask, "x": VECTOR, **others}), action)


@pytest.mark.parametrize(
    ("action", "masks"),
    [
        (spaces.Discrete(4), [[1, 0, 0, 1]]),
        (spaces.MultiDiscrete([2, 3]), [[1, 0], [0, 1, 1]]),
    ],
)
@pytest.mark.parametrize("use_lstm", [False, True])
def test_forbidden_actions_are_never_drawn(action, masks, use_lstm):
    torch.manual_seed(0)
    spec = masked_spec(action, sum(map(len, masks)))
    net = build(NetworkConfig(use_lstm=use_lstm), spec)
    rows = sample_rows(spec, 2, 300)
    rows.obs["action_mask"][:] = torch.tensor([ok for mask in masks for ok in mask])
    output, _ = net(rows, net.initial_state(300))
    policy = net.distribution(output.logits)
    for drawn in (policy.sample(), policy.mode()):
        parts = drawn.view(600, -1).unbind(1)
        for part, mask in zip(parts, masks, strict=True):
            assert torch.tensor(mask)[part].all()
    # What is forbidden has no share: allowed actions alone add up to 1.
    allowed = torch.tensor([i for i, ok in enumerate(masks[0]) if ok])
    if len(masks) == 1:
        every = [policy.log_prob(a.expand(2, 300)).exp() for a in allowed]
        torch.testing.assert_close(sum(every), torch.ones(2, 300))


def test_the_mask_is_no_observation():
    spec = masked_spec(spaces.Discrete(4), 4)
    net = build(NetworkConfig(), spec)
    assert net.encoder.out_features == 3
    assert build(NetworkConfig(use_lstm=True), spec).encoder.encoder.out_features == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (masked_spec(spaces.Discrete(4), 3), r"'action_mask' of shape \(4,\).*got MultiBinary\(3"),
        (masked_spec(spaces.MultiDiscrete([2, 3]), 6), r"'action_mask' of shape \(5,\)"),
        (masked_spec(spaces.MultiBinary(4), 4), r"Discrete or one-dimensional MultiDiscrete"),
        (masked_spec(spaces.MultiDiscrete([[2, 2]]), 4), r"one-dimensional"),
        (
            EnvSpec(spaces.Dict({"action_mask": spaces.MultiBinary(2)}), spaces.Discrete(2)),
            "expected observations beside 'action_mask'",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_one_clear_error(spec, message):
    with pytest.raises(ValueError, match=message):
        build(NetworkConfig(), spec)


def test_previous_actions_come_in_the_units_of_the_head() -> None:
    low, high = np.array([-1000.0, 0.0, -np.inf]), np.array([1000.0, 4.0, np.inf])
    space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
    encoder = action_encoder(space)
    seen = encoder(torch.tensor([[[500.0, 1.0, 3.0], [-1000.0, 4.0, 99.0], [1e6, 2.0, -99.0]]]))
    assert seen.tolist() == [[[0.5, -0.5, 3.0], [-1.0, 1.0, 10.0], [10.0, 0.0, -10.0]]]
    assert encoder.out_features == 3

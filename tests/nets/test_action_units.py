"""Actions in units of their bounds: there and back."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from torchbeast.envs.actions import gate
from torchbeast.nets import ActionUnits

ODD = {
    "unit": (np.full(2, -1.0), np.full(2, 1.0)),
    "scalar": (np.array(-0.3), np.array(7.1)),
    "vector": (np.array([-0.4, 1.7, -1e3]), np.array([0.1, 1.9, 5e-2])),
    "matrix": (np.array([[-2.0, 3.0], [-5.5, -9.0]]), np.array([[-1.0, 4.5], [0.25, 99.0]])),
    "single": (np.array([-7.7]), np.array([-7.6])),
}
EPS = 3e-7  # a few roundings of float32, in which networks count


def box(name, dtype):
    low, high = ODD[name]
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


def digits(space):
    """How far rounding may move each number of an action [*shape]."""
    return EPS * np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64)


def assert_near(actual, expected, tolerance):
    assert tuple(actual.shape) == np.shape(expected)
    assert (np.abs(actual.double().numpy() - expected) <= tolerance).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ODD)
def test_bounds_are_minus_one_and_one(name, dtype):
    space = box(name, dtype)
    units = ActionUnits(space)
    assert units.size == space.low.size
    for bound, unit in ((space.low, -1.0), (space.high, 1.0), ((space.low + space.high) / 2, 0.0)):
        bound = torch.as_tensor(bound)
        action = units.to_env(torch.full((units.size,), unit))
        assert action.dtype == bound.dtype
        assert_near(action, bound.double().numpy(), digits(space))
        vector = units.from_env(bound)
        assert vector.dtype == torch.float32
        # What is narrow and far from 0 keeps fewer digits.
        few = EPS + 2 * digits(space).reshape(-1) / units.half_range.numpy()
        assert_near(vector, np.full(units.size, unit), few)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("lead", [(), (6,), (1, 4), (3, 2)])
def test_there_and_back(name, dtype, lead):
    torch.manual_seed(0)
    space = box(name, dtype)
    units = ActionUnits(space)
    vector = torch.rand(*lead, units.size) * 2 - 1
    action = units.to_env(vector)
    low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
    unit = vector.double().numpy().reshape((*lead, *space.shape))
    assert_near(action, low + (unit + 1) / 2 * (high - low), digits(space))
    few = EPS + 2 * digits(space).reshape(-1) / units.half_range.numpy()
    assert_near(units.from_env(action), vector.double().numpy(), few)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ODD)
def test_environments_get_what_they_take(name, dtype):
    """Rounding may leave a bound by its last digit; behind the gate nothing does."""
    space = box(name, dtype)
    units = ActionUnits(space)
    vector = torch.cat([-torch.ones(1, units.size), torch.ones(1, units.size)])
    for action in gate(space, 2)(units.to_env(vector).numpy()):
        assert space.contains(np.asarray(action, dtype))


def test_gradients_pass_and_nothing_is_saved():
    units = ActionUnits(spaces.Box(-0.5, 2.0, (2, 2)))
    vector = torch.zeros(3, 4, requires_grad=True)
    units.to_env(vector).sum().backward()
    assert (vector.grad == 1.25).all()
    assert not units.state_dict()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3), r"expected Box actions of floats, got Discrete\(3\); use sac_discr"),
        (spaces.MultiDiscrete([2, 2]), r"of floats, got MultiDiscrete.*ppo for others"),
        (spaces.Box(0, 9, (2,), np.int64), r"Box actions of floats, got Box.*int64.*wrap"),
        (spaces.Dict({"a": spaces.Box(-1, 1)}), r"of floats, got Dict.*or wrap the environment"),
        (spaces.Box(-np.inf, np.inf, (2,)), r"lower and a higher bound each, got.*TransformAction"),
        (spaces.Box(0, np.inf, (2,)), r"lower and a higher bound each, got.*or use ppo"),
        (spaces.Box(-np.inf, 0, (2,)), r"lower and a higher bound each"),
        (spaces.Box(np.array([-1, 2]), np.array([1, 2]), dtype=np.float32), r"higher bound each"),
        (spaces.Box(-3e38, 3e38, (2,)), r"lower and a higher bound each"),
    ],
)
def test_what_has_no_such_units_is_one_clear_error(space, message):
    with pytest.raises(ValueError, match=message):
        ActionUnits(space)

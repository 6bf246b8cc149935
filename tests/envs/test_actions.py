"""What environments receive: every kind of action space through every source that takes it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from torchbeast import envs
from torchbeast.data import tree_leaves, tree_map
from torchbeast.envs import EnvConfig
from torchbeast.envs.actions import gate

NARROW = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.5], np.float32))
SPACES: dict[str, spaces.Space[Any]] = {
    "box": NARROW,
    "unbounded": spaces.Box(-np.inf, np.inf, (2, 1), np.float64),
    "discrete": spaces.Discrete(3, start=-1),
    "multi": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [0, 2]]),
    "binary": spaces.MultiBinary((2, 3)),
    "dict": spaces.Dict({"go": NARROW, "say": spaces.Discrete(4, start=1)}),
    "tuple": spaces.Tuple((spaces.MultiBinary(2), spaces.Dict({"a": NARROW}))),
}
SPACES["all"] = spaces.Dict(dict(SPACES))


class Recorder(gymnasium.Env[Any, Any]):
    """Shows the action that it received, and insists on the action space."""

    def __init__(self, kind: str) -> None:
        self.action_space = SPACES[kind]
        size = len(flat(self.action_space.sample()))
        self.observation_space = spaces.Box(-9, 9, (size,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        return flat(action), 0.0, False, False, {}


def flat(action: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([np.ravel(x) for x in tree_leaves(action)]).astype(np.float32)


def recorder(kind: str) -> Recorder:
    return Recorder(kind)


def starts(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: starts(sub) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(map(starts, space.spaces))
    return getattr(space, "start", np.zeros(space.shape or ()))


@pytest.mark.parametrize(("kind", "workers"), [*((kind, 0) for kind in SPACES), ("all", 1)])
def test_environments_receive_their_action(kind: str, workers: int) -> None:
    config = EnvConfig(factory=recorder, env_kwargs={"kind": kind}, env_workers=workers)
    env = envs.make(config, 2, 0)
    env.spec.action.seed(3)
    env.reset()
    for _ in range(20):
        samples = [env.spec.action.sample() for _ in range(2)]
        sent = tree_map(lambda *x: np.stack(x), *samples)
        env.send(sent)
        got = env.recv().obs
        for i in range(2):
            assert np.array_equal(got[i], flat(samples[i]) + flat(starts(SPACES[kind])))
    env.close()


def test_boxes_are_clipped_on_the_way() -> None:
    env = envs.make(EnvConfig(factory=recorder, env_kwargs={"kind": "tuple"}), 2, 0)
    env.reset()
    drawn = np.array([[-3, 0.25], [0.5, 7]], np.float32)
    env.send((np.ones((2, 2), np.int8), {"a": drawn}))
    assert env.recv().obs.tolist() == [[1, 1, -1, 0.25], [1, 1, 0.5, 0.5]]
    assert drawn.tolist() == [[-3, 0.25], [0.5, 7]]  # the rollout keeps what was drawn
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            env.send((np.ones((2, 2), np.int8), {"a": np.array([[0, 0], [0, bad]], np.float32)}))
    with pytest.raises(ValueError, match=r"expected actions for \['a'\]"):
        env.send((np.ones((2, 2), np.int8), {"b": drawn}))
    env.close()


def test_gates() -> None:
    huge = np.full((2, 2, 1), 1e200)
    with np.errstate(over="ignore"):
        assert gate(SPACES["unbounded"], 2)(huge) is huge  # its square is infinite
    discrete = np.array([1, 0])
    assert gate(spaces.Discrete(3), 2)(discrete) is discrete  # costs nothing
    double = gate(NARROW, 1)(np.array([[5.0, 0.25]]))
    assert double.dtype == np.float32
    assert double.tolist() == [[1, 0.25]]
    whole = gate(spaces.Box(0, 9, (1,), np.int32), 1)(np.array([[12]]))
    assert (whole.dtype, whole.tolist()) == (np.int32, [[9]])
    bad = [
        ("binary", np.full((1, 2, 3), 2)),
        ("binary", np.zeros((1, 3))),
        ("multi", np.full((1, 2, 2), 2)),
        ("box", np.zeros((2, 2))),
    ]
    for kind, action in bad:
        with pytest.raises(ValueError, match="expected actions"):
            gate(SPACES[kind], 1)(action)

"""The DeepMind Control Suite: what it means by an end, a seed and a bound, and its pictures."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from torchbeast import envs
from torchbeast.envs import EnvConfig, UnknownEnvironment, VectorEnv
from torchbeast.envs.envpool import _of_dm_control
from torchbeast.nets.encoders import image_shape, is_box_image

from .test_contract import equal, stream

pytest.importorskip("dm_control")

from torchbeast.envs import dm_control
from torchbeast.envs.dm_control import DMControl

SHORT = {"time_limit": 0.1}  # 10 steps of cartpole
KNOWN = 0.008369849448  # of dm_control 1.0.50 with MuJoCo 4.0.0


def actions(env: gymnasium.Env[Any, Any], count: int) -> list[np.ndarray[Any, Any]]:
    env.action_space.seed(0)
    return [env.action_space.sample() for _ in range(count)]


def made(name: str, num_envs: int = 2, seed: int = 7, **kwargs: Any) -> VectorEnv:
    return envs.make(EnvConfig(f"dm_control/{name}-v0", kwargs), num_envs, seed)


@pytest.mark.parametrize(("domain", "task"), [("cheetah", "run"), ("fish", "swim")])
def test_what_dm_control_itself_gives(domain: str, task: str) -> None:
    theirs = dm_control._suite().load(domain, task, {"random": 3})
    env = DMControl(domain, task)
    shown = [theirs.reset().observation]
    obs, _ = env.reset(seed=3)
    came = [obs]
    for action in actions(env, 20):
        expected = theirs.step(action)
        obs, reward, terminated, truncated, _ = env.step(action)
        assert (reward, terminated, truncated) == (expected.reward, False, False)
        assert env.observation_space.contains(obs)
        shown.append(expected.observation)
        came.append(obs)
    for a, b in zip(shown, came, strict=True):
        assert set(a) == set(b)
        for key, value in a.items():
            assert np.array_equal(np.ravel(value).astype(np.float32), b[key])
    env.close()


def test_known_rewards() -> None:
    env = DMControl("cartpole", "swingup")
    for _ in range(2):
        env.reset(seed=1)
        total = sum(env.step(action)[1] for action in actions(env, 50))
        assert total == pytest.approx(KNOWN, rel=1e-6)
    env.close()


def test_a_time_limit_truncates() -> None:
    env = made("cartpole-balance", **SHORT)
    rows = stream(env, 25)
    discount, first = (np.stack([row[i] for row in rows]) for i in (-2, -1))
    assert (discount == 1).all()
    assert np.flatnonzero(first[:, 0]).tolist() == [0, 11, 22]
    assert [(e.length, e.truncated) for e in env.episodes()] == [(10, True)] * 4
    assert env.snapshot() is None  # MuJoCo keeps its state in C
    # The row before the next episode is the last one's end: it moves on from the row before it.
    position = np.stack([row[0] for row in rows])
    assert np.abs(position[10] - position[9]).max() < np.abs(position[11] - position[10]).max()
    env.close()


def test_a_discount_of_0_terminates() -> None:
    env = DMControl("lqr", "lqr_2_1")
    env.reset(seed=0)
    assert env.step(np.ones(1, np.float32))[2:4] == (False, False)
    physics = env._env.physics
    with physics.reset_context():
        physics.set_state(np.zeros_like(physics.get_state()))
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)
    env.close()


def test_seeds() -> None:
    one, same, other = (made("reacher-easy", seed=seed, **SHORT) for seed in (7, 7, 8))
    rows = stream(one, 30)
    assert equal(rows, stream(same, 30))
    assert not equal(rows, stream(other, 30))
    for env in (one, same, other):
        env.close()
    starts = [DMControl("reacher", "easy").reset()[0]["position"] for _ in range(2)]
    assert not np.array_equal(*starts)  # nobody gave a seed


def test_lqr_is_the_same_task_each_time() -> None:
    stiffness = [DMControl("lqr", "lqr_6_2")._env.physics.model.jnt_stiffness for _ in range(2)]
    assert np.array_equal(*stiffness)


def test_action_repeat() -> None:
    once, thrice = (
        DMControl("cartpole", "swingup", action_repeat=n, time_limit=0.1) for n in (1, 3)
    )
    action = np.ones(1, np.float32)
    for env in (once, thrice):
        env.reset(seed=0)
    rewards = [once.step(action)[1] for _ in range(10)]
    for i in range(4):
        _, reward, terminated, truncated, _ = thrice.step(action)
        assert reward == pytest.approx(sum(rewards[3 * i : 3 * i + 3]))
        assert (terminated, truncated) == (False, i == 3)  # after one step of the last three
    assert thrice.metadata["render_fps"] == 33
    with pytest.raises(ValueError, match="action_repeat"):
        DMControl("cartpole", "swingup", action_repeat=0)


def test_bounds_and_scalars() -> None:
    cheetah, lqr, walker = (
        envs.spec(EnvConfig(f"dm_control/{name}-v0"))
        for name in ("cheetah-run", "lqr-lqr_2_1", "walker-walk")
    )
    assert cheetah.action == gymnasium.spaces.Box(-1, 1, (6,), np.float32)
    assert lqr.action == gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    shapes = {key: box.shape for key, box in walker.observation.spaces.items()}  # type: ignore
    assert shapes == {"height": (1,), "orientations": (14,), "velocity": (9,)}


def test_pixels() -> None:
    try:
        env = made("cartpole-swingup", pixels=True, size=32, frames=3, action_repeat=2)
    except UnknownEnvironment as error:
        pytest.skip(str(error))
    assert is_box_image(env.spec.observation)
    assert image_shape(env.spec.observation) == (9, 32, 32)
    assert env.spec.observation.dtype == np.uint8
    assert env.spec.frame_stack == 1
    rows = [row[0] for row in stream(env, 6)]
    assert np.array_equal(rows[0][:, :3], rows[0][:, 6:])
    for before, after in itertools.pairwise(rows):
        assert np.array_equal(before[:, 3:], after[:, :6])  # the oldest goes
    assert not np.array_equal(rows[4][:, 6:], rows[0][:, 6:])
    env.close()
    with pytest.raises(ValueError, match="frames"):
        made("cartpole-swingup", pixels=True, frames=0)


def test_render() -> None:
    config = EnvConfig("dm_control/cartpole-swingup-v0")
    try:
        env = envs.make(config, 1, 0, render=True)
    except UnknownEnvironment as error:
        pytest.skip(str(error))
    env.reset()
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((480, 480, 3), np.uint8)
    assert len(np.unique(picture)) > 10
    env.close()


def test_without_opengl_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no backend")

    physics = type(DMControl("cartpole", "swingup")._env.physics)
    monkeypatch.setattr(physics, "render", draw)
    with pytest.raises(UnknownEnvironment, match=r"OpenGL.*no backend.*apt-get install libegl1"):
        made("cartpole-swingup", pixels=True)
    made("cartpole-swingup").close()  # needs none


def test_names() -> None:
    known = {f"dm_control/{d}-{t}-v0" for d, t in dm_control._suite().ALL_TASKS}
    assert set(envs.groups()["dm_control"]) == known
    with pytest.raises(UnknownEnvironment, match="dm_control/cheetah-run-v0"):
        made("cheetah-runs")
    assert _of_dm_control("dm_control/humanoid_CMU-run-v0") == "HumanoidCMURun-v1"
    assert _of_dm_control("dm_control/lqr-lqr_2_1-v0") == "LqrLqr21-v1"
    assert _of_dm_control("CartPole-v1") == "CartPole-v1"


def test_listing_does_not_import_the_suite() -> None:
    code = (
        "import sys; from torchbeast import envs; envs.names(); print('dm_control' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_missing_package_is_told_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "dm_control" else find_spec(name)
    )
    with pytest.raises(UnknownEnvironment, match=r'pip install "torchbeast\[dmc\]"'):
        made("cheetah-jump")

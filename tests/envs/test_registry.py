"""Names: what is known, and what the messages say about the rest."""

from __future__ import annotations

import importlib.util
import pathlib
from typing import Any

import gymnasium
import numpy as np
import pytest
import tyro

from torchbeast import envs
from torchbeast.envs import EnvConfig, UnknownEnvironment, registry
from torchbeast.envs.tmaze import FORWARD, LEFT, RIGHT, TMaze

from ..probes import Probe, probe

PROBES = str(pathlib.Path(__file__).parents[1] / "probes.py")


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(UnknownEnvironment, match=r"PongNoFrameskip-v4, .+, .+"):
        envs.make(EnvConfig("PonNoFrameskip-v4"), 1, 0)
    for name in ("no_module_here:make", "no_file.py:make", f"{PROBES}:nothing"):
        with pytest.raises(UnknownEnvironment, match="expected"):
            envs.spec(EnvConfig(name))


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("ALE/Nothing-v5", "ale_py", "atari"),
        ("MinAtar/Nothing-v1", "minatar", "minatar"),
        ("MiniGrid-Nothing-v0", "minigrid", "minigrid"),
    ],
)
def test_missing_package_is_told_the_extra(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(UnknownEnvironment, match=rf'pip install "torchbeast\[{extra}\]"'):
        envs.spec(EnvConfig(name))


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("HalfCheetah-v5", "mujoco", "mujoco"), ("LunarLander-v3", "Box2D", "box2d")],
)
def test_missing_engine_is_told_the_extra(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )

    def make(*args: Any, **kwargs: Any) -> Any:
        raise gymnasium.error.DependencyNotInstalled("no engine")

    monkeypatch.setattr(gymnasium, "make", make)
    with pytest.raises(UnknownEnvironment, match=rf'no engine.*"torchbeast\[{extra}\]"'):
        envs.spec(EnvConfig(name))


def test_names_and_specs() -> None:
    names = envs.names()
    assert {"PongNoFrameskip-v4", "ALE/Pong-v5", "CartPole-v1", "TMaze-v0"} <= set(names)
    assert "Pong-v4" not in names
    assert set(envs.groups()) >= {
        *("atari", "classic_control", "torchbeast"),
        *("box2d", "minatar", "minigrid", "mujoco"),
    }
    assert envs.spec(EnvConfig("CartPole-v1")).observation.shape == (4,)
    assert envs.spec(EnvConfig(f"{PROBES}:probe", {"number": 4})).action.n == 2  # type: ignore


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="--env_workers to divide the 4"):
        envs.make(EnvConfig("CartPole-v1", env_workers=3), 4, 0)
    with pytest.raises(ValueError, match="Atari"):
        envs.make(EnvConfig("CartPole-v1", life_loss=True), 4, 0)
    with pytest.raises(ValueError, match="top level of a module"):
        envs.make(EnvConfig(factory=lambda: Probe(1), env_workers=1), 1, 0)


def test_flags() -> None:
    config = tyro.cli(EnvConfig, args=["--env", "CartPole-v1", "--env-workers", "2"])
    assert config == EnvConfig("CartPole-v1", env_workers=2)


def test_render() -> None:
    class Drawn(Probe):
        def __init__(self, render_mode: str | None = None) -> None:
            super().__init__(1)
            self.render_mode = render_mode

        def render(self) -> Any:
            return np.zeros((8, 8, 3), np.uint8)

    config = EnvConfig(factory=Drawn)
    env = envs.make(config, 1, 0, render=True)
    assert env.render().shape == (336, 336, 3)  # enlarged
    with pytest.raises(ValueError, match="render=True"):
        envs.make(config, 1, 0).render()


def test_tmaze() -> None:
    env = TMaze(length=3)
    for seed in range(4):
        signal = env.reset(seed=seed)[0][0]
        assert signal in (-1, 1)
        for _ in range(3):
            obs, reward, terminated, _, _ = env.step(FORWARD)
            assert (obs[0], reward, terminated) == (0, 0, False)
        assert obs[1] == 1
        right = RIGHT if signal == 1 else LEFT
        assert env.step(right if seed % 2 else 3 - right)[1:3] == ((-1.0, 1.0)[seed % 2], True)
    assert registry.find("TMaze-v0").id == "TMaze-v0"


@pytest.mark.parametrize("number", range(1, 8))
def test_probe_values(number: int) -> None:
    env = probe(number=number)
    obs, _ = env.reset(seed=1)
    total, scale, ends = 0.0, 1.0, False
    while not ends:
        best = int(obs[0] > 0) if number == 5 else env.action_space.n - 1  # type: ignore
        obs, reward, terminated, truncated, _ = env.step(best)
        total += scale * reward
        scale *= 0.9
        ends = terminated or truncated
    if number == 6:
        assert truncated
        total += scale * 10  # what lies behind a time limit counts
    sign = env.sign  # type: ignore[attr-defined]
    expected = {2: sign, 3: 0.9, 6: 10.0, 7: (1 - 0.9**5) / 0.1}.get(number, 1.0)
    assert total == pytest.approx(expected)

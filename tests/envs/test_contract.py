"""What every source of environments promises, whatever steps them."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from torchbeast import envs
from torchbeast.data import tree_leaves
from torchbeast.envs import EnvConfig, EnvError, VectorEnv

from ..probes import counting, episode_length

PROBES = str(pathlib.Path(__file__).parents[1] / "probes.py")
SOURCES = {
    "atari": EnvConfig("PongNoFrameskip-v4", {"max_num_frames_per_episode": 200}),
    "sticky": EnvConfig("ALE/Breakout-v5", {"max_num_frames_per_episode": 200}, life_loss=True),
    "native": EnvConfig("CartPole-v1"),
    "cartpole": EnvConfig("CartPole-v1", env_backend="gymnasium"),
    "minigrid": EnvConfig("MiniGrid-Empty-5x5-v0", {"max_steps": 20}),
    "tmaze": EnvConfig("TMaze-v0", {"length": 3}),
    "processes": EnvConfig("CartPole-v1", env_workers=2),
}
Row = list[np.ndarray[Any, Any]]


def actions(env: VectorEnv, count: int, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    env.spec.action.seed(seed)
    return [np.array([env.spec.action.sample() for _ in range(env.num_envs)]) for _ in range(count)]


def stream(env: VectorEnv, count: int) -> list[Row]:
    """Returns ``count`` rows: copies of their leaves, reward, discount and first the last three."""
    rows = [[np.array(x) for x in tree_leaves(tuple(env.reset()))]]
    for action in actions(env, count - 1):
        env.send(action)
        rows.append([np.array(x) for x in tree_leaves(tuple(env.recv()))])
    return rows


def equal(a: list[Row], b: list[Row]) -> bool:
    return all(
        np.array_equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.fixture(scope="module", params=SOURCES)
def made(request: pytest.FixtureRequest) -> Iterator[tuple[str, VectorEnv, list[Row]]]:
    env = envs.make(SOURCES[request.param], 4, 7, num_threads=2)
    yield request.param, env, stream(env, 150)
    env.close()


def test_rows(made: tuple[str, VectorEnv, list[Row]]) -> None:
    rows = made[2]
    reward, discount, first = (np.stack([row[i] for row in rows]) for i in (-3, -2, -1))
    assert reward.dtype == discount.dtype == np.float32
    assert first.dtype == bool
    assert first[0].all()
    assert first[1:].any()
    assert not (first[1:] & first[:-1]).any()
    assert (reward[first] == 0).all()
    assert (discount[first] == 1).all()
    assert set(np.unique(discount)) <= {0, 1}
    batch = [np.asarray(space) for space in rows[0][:-3]]
    assert all(len(x) == 4 for x in batch)


def test_episodes_are_what_the_rows_say(made: tuple[str, VectorEnv, list[Row]]) -> None:
    _, env, rows = made
    reward, first = (np.stack([row[i] for row in rows]) for i in (-3, -1))
    told = env.episodes()
    assert env.episodes() == []
    for i in range(4):
        starts = np.flatnonzero(first[:, i])
        seen = [
            (pytest.approx(reward[a:b, i].sum(), abs=1e-4), b - a - 1)
            for a, b in itertools.pairwise(starts)
        ]
        mine = [(e.episode_return, e.length) for e in told if e.env == i]
        assert mine[: len(seen)] == seen
        assert len(mine) - len(seen) in (0, 1)  # one may end with the very last row


def test_same_seed_same_stream(made: tuple[str, VectorEnv, list[Row]]) -> None:
    name, _, rows = made
    # Processes must stream what the same environments stream in one process.
    config = SOURCES[name]
    if config.env_workers:
        config = dataclasses.replace(config, env_workers=0, env_backend="gymnasium")
    again, other = envs.make(config, 4, 7, num_threads=1), envs.make(config, 4, 8)
    assert equal(rows[:60], stream(again, 60))
    assert name == "minigrid" or not equal(rows[:60], stream(other, 60))
    again.close()
    other.close()


def test_environments_differ(made: tuple[str, VectorEnv, list[Row]]) -> None:
    rows = made[2]
    assert any(not np.array_equal(x[0], x[1]) for row in rows[:60] for x in row[:-3])


def test_bad_actions(made: tuple[str, VectorEnv, list[Row]]) -> None:
    env = made[1]
    n = int(env.spec.action.n)  # type: ignore[attr-defined]
    for bad in ([0, 0, 0, n], [0, 0, 0, -1], [0, 0, 0], [0.0, 0, 0, 0]):
        with pytest.raises(ValueError, match="expected actions"):
            env.send(np.array(bad))


def test_time_limit_is_not_terminal() -> None:
    env = envs.make(SOURCES["atari"], 2, 0, num_threads=1)
    rows = stream(env, 60)
    last = next(t for t, row in enumerate(rows[1:]) if row[-1][0])
    assert rows[last][-2][0] == 1
    assert env.episodes()[0].truncated
    env.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_counting(workers: int) -> None:
    config = EnvConfig(f"{PROBES}:counting", env_workers=workers)
    env = envs.make(config, 2, 0)
    expected = []
    for episode in range(8):
        length = episode_length(episode)
        for step in range(length + 1):
            terminal = step == length and episode % 2 == 0
            expected.append((episode, step, float(step), 1 - terminal, step == 0))
    rows = stream(env, len(expected))
    for (obs, reward, discount, first), (episode, step, r, d, f) in zip(
        rows, expected, strict=True
    ):
        assert obs.tolist() == [[episode, step]] * 2  # also the final observation is a row
        assert (reward.tolist(), discount.tolist(), first.tolist()) == ([r] * 2, [d] * 2, [f] * 2)
    episodes = [e for e in env.episodes() if e.env == 1]
    lengths = [episode_length(k) for k in range(8)]
    assert [e.length for e in episodes] == lengths
    assert [e.episode_return for e in episodes] == [n * (n + 1) / 2 for n in lengths]
    assert [e.truncated for e in episodes] == [k % 2 == 1 for k in range(8)]
    env.close()


@pytest.mark.parametrize(
    ("kind", "structure"),
    [
        ("dict", {"count": (2, 2), "nested": {"step": (2,)}}),
        ("tuple", ((2, 2), (2,))),
        ("text", {"count": (2, 2)}),
    ],
)
def test_observation_trees(kind: str, structure: Any) -> None:
    env = envs.make(EnvConfig(factory=counting, env_kwargs={"kind": kind}), 2, 0)
    env.reset()
    env.send(np.zeros(2, np.int64))
    obs = env.recv().obs

    def shapes(tree: Any) -> Any:
        if type(tree) is dict:
            return {key: shapes(sub) for key, sub in tree.items()}
        return tuple(map(shapes, tree)) if type(tree) is tuple else tree.shape

    assert shapes(obs) == structure
    env.close()


def test_multi_discrete_and_unsupported() -> None:
    env = envs.make(EnvConfig(factory=counting, env_kwargs={"kind": "multi"}), 2, 0)
    env.reset()
    env.send(np.array([[1, 2], [0, 0]]))
    env.recv()
    with pytest.raises(ValueError, match="expected actions"):
        env.send(np.array([[2, 0], [0, 0]]))
    env.close()
    with pytest.raises(ValueError, match="fixed shape"):
        envs.make(EnvConfig(factory=counting, env_kwargs={"kind": "only_text"}), 2, 0)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("nan", "finite rewards.*environment 0 at step 5"), ("shape", "raised"), ("raise", "broken")],
)
def test_faults_in_process(kind: str, text: str) -> None:
    config = EnvConfig(f"{PROBES}:fault", {"kind": kind, "at_step": 5})
    if kind == "nan":
        config.env_kwargs["at_step"] = 3 + 5  # step 5 of the second episode
        text = "finite rewards.*environment 0 at step"
    env = envs.make(config, 2, 0)
    with pytest.raises(EnvError, match=text):
        stream(env, 20)
    env.close()

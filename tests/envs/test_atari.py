"""Atari: lives, and what the two protocols mean."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from torchbeast import envs
from torchbeast.envs import EnvConfig, atari, registry

from .test_contract import stream


def test_a_lost_life_ends_no_game() -> None:
    config = EnvConfig("BreakoutNoFrameskip-v4", life_loss=True)
    with_lives = envs.make(config, 2, 3, num_threads=1)
    rows = stream(with_lives, 700)
    reward, discount, first = (np.stack([row[i] for row in rows]) for i in (-3, -2, -1))
    episodes = [e for e in with_lives.episodes() if e.env == 0]
    starts = np.flatnonzero(first[:, 0])
    assert len(starts) > 1
    game = slice(starts[0], starts[1])
    assert (discount[game, 0] == 0).sum() == 5  # of five lives, the last ends the game
    assert discount[starts[1] - 1, 0] == 0
    assert episodes[0].episode_return == reward[game, 0].sum()
    with_lives.close()

    # Without the option the games are the same, bit for bit.
    full = envs.make(EnvConfig("BreakoutNoFrameskip-v4"), 2, 3, num_threads=1)
    others = stream(full, starts[1] + 1)
    for row, other in zip(rows, others, strict=False):
        assert all(np.array_equal(row[i], other[i]) for i in (0, 1, 3))
    assert sum(1 - row[2][0] for row in others) == 1
    full.close()


def test_protocols() -> None:
    registry.names()  # registers ale-py
    ours = atari.protocol(gymnasium.spec("PongNoFrameskip-v4"), {})
    sticky = atari.protocol(gymnasium.spec("ALE/Pong-v5"), {})
    assert ours["repeat_action_probability"] == 0
    assert sticky == ours | {"repeat_action_probability": 0.25}
    assert (ours["frameskip"], ours["max_num_frames_per_episode"]) == (4, 108000)
    assert not ours["full_action_space"]
    with pytest.raises(ValueError, match="episodic_life"):
        atari.protocol(gymnasium.spec("ALE/Pong-v5"), {"episodic_life": True})
    with pytest.raises(ValueError, match="random number of frames"):
        atari.protocol(gymnasium.spec("Pong-v4"), {})


def test_rewards_are_not_clipped_and_metadata_not_shared() -> None:
    env = envs.make(EnvConfig("ALE/Boxing-v5", {"stack_num": 2}), 1, 0, num_threads=1)
    other = envs.make(EnvConfig("ALE/Pong-v5"), 1, 0, num_threads=1)
    assert env.spec.observation.shape == (2, 84, 84)
    assert env._ale.metadata is not other._ale.metadata  # type: ignore[attr-defined]
    assert env.snapshot() is None
    env.reset()
    assert env.render().shape == (336, 336, 3)
    env.close()
    other.close()
    qbert = envs.make(EnvConfig("QbertNoFrameskip-v4"), 4, 0, num_threads=1)
    assert max(row[1].max() for row in stream(qbert, 150)) == 25
    qbert.close()

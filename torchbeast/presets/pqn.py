"""PQN's tuned settings."""

from __future__ import annotations

from torchbeast.presets.families import ATARI, BOX2D, CLASSIC, MINATAR, Preset, changed
from torchbeast.runners.config import RunConfig


def pqn_atari(config: RunConfig) -> RunConfig:
    """PQN on Atari games."""
    return changed(
        config,
        algorithm=dict(
            learning_rate=0.00025,
            exploration_end=0.001,
            reward_clipping="abs_one",
        ),
        system=dict(total_steps=50_000_000),
    )


def pqn_minatar(config: RunConfig) -> RunConfig:
    """PQN on MinAtar."""
    return changed(config, system=dict(total_steps=10_000_000))


def pqn_classic(config: RunConfig) -> RunConfig:
    """PQN on classic control and LunarLander."""
    return changed(
        config,
        algorithm=dict(
            batch_size=32,
            unroll_length=64,
            num_epochs=4,
            num_minibatches=16,
            q_lambda=0.95,
            learning_rate=0.0005,
            exploration_fraction=0.2,
        ),
        network=dict(hidden_sizes=(128, 128), activation="relu"),
        system=dict(total_steps=500_000),
    )


PRESETS: list[tuple[str, Preset]] = [
    (ATARI, pqn_atari),
    (MINATAR, pqn_minatar),
    (f"{CLASSIC}|{BOX2D}", pqn_classic),
]

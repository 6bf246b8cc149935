"""R2D2's tuned settings."""

from __future__ import annotations

from torchbeast.presets.families import ATARI, CLASSIC, MEMORY, Preset, changed
from torchbeast.runners.config import RunConfig


def r2d2_atari(config: RunConfig) -> RunConfig:
    """R2D2 on Atari games; give it actor processes."""
    return changed(
        config,
        algorithm=dict(replay_size=4_000_000, min_replay_size=20_000, target_interval=1_000_000),
        network=dict(lstm_size=512),
        system=dict(total_steps=50_000_000),
    )


def r2d2_memory(config: RunConfig) -> RunConfig:
    """R2D2 where something seen early matters late."""
    return changed(
        config,
        algorithm=dict(
            # What is learned from must reach from the cue to where it matters.
            unroll_length=20,
            sequence_length=40,
            burn_in=20,
            batch_size=32,
            replay_size=100_000,
            min_replay_size=2_000,
            replay_ratio=32.0,
            discounting=0.99,
            n_step=3,
            target_interval=2_000,
            learning_rate=0.001,
            exploration="schedule",
            exploration_end=0.02,
            exploration_fraction=0.3,
        ),
        system=dict(total_steps=150_000, num_envs=8),
    )


def r2d2_classic(config: RunConfig) -> RunConfig:
    """R2D2 on classic control."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=10,
            sequence_length=20,
            burn_in=10,
            batch_size=32,
            replay_size=100_000,
            min_replay_size=1_000,
            replay_ratio=8.0,
            discounting=0.99,
            n_step=3,
            target_interval=1_000,
            learning_rate=0.0005,
        ),
        system=dict(total_steps=100_000, num_envs=8),
    )


PRESETS: list[tuple[str, Preset]] = [
    (ATARI, r2d2_atari),
    (MEMORY, r2d2_memory),
    (CLASSIC, r2d2_classic),
]

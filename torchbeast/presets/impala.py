"""IMPALA's tuned settings."""

from __future__ import annotations

from torchbeast.presets.families import ATARI, CLASSIC, MEMORY, Preset, changed
from torchbeast.runners.config import RunConfig


def impala_atari(config: RunConfig) -> RunConfig:
    """IMPALA on Atari games."""
    # Small batches: on few cores many updates learn more than large ones. Traces that decay:
    # with the baseline still wrong, long ones are mostly noise.
    return changed(
        config,
        algorithm=dict(
            unroll_length=20,
            batch_size=4,
            learning_rate=0.0005,
            entropy_cost=0.01,
            vtrace_lambda=0.95,
            optimizer="adam",
            epsilon=1e-5,
        ),
        system=dict(total_steps=6_000_000, num_envs=8),
    )


def impala_classic(config: RunConfig) -> RunConfig:
    """IMPALA on classic control and other small observations."""
    return changed(
        config,
        algorithm=dict(
            unroll_length=32,
            batch_size=8,
            learning_rate=0.001,
            entropy_cost=0.01,
            optimizer="adam",
            epsilon=1e-5,
            reward_clipping="none",
        ),
        system=dict(total_steps=500_000, num_envs=8),
    )


def impala_memory(config: RunConfig) -> RunConfig:
    """IMPALA where something seen early matters late; give it --use_lstm too."""
    # The unroll is as long as the longest gap: gradients do not reach beyond it.
    return changed(
        impala_classic(config),
        algorithm=dict(unroll_length=80, batch_size=32, learning_rate=0.002, entropy_cost=0.05),
        system=dict(total_steps=1_000_000, num_envs=32),
    )


PRESETS: list[tuple[str, Preset]] = [
    (ATARI, impala_atari),
    (MEMORY, impala_memory),
    (CLASSIC, impala_classic),
]

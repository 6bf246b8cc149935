"""Which numbers a setting may have."""

from __future__ import annotations

import dataclasses
import math

from torchbeast.runners.config import RunConfig

# Smallest and largest, both allowed; for a list, of each of its numbers.
RANGES = {
    **dict.fromkeys(["discounting", "gae_lambda", "vtrace_lambda", "alpha"], (0.0, 1.0)),
    **dict.fromkeys(
        ["learning_rate", "momentum", "entropy_cost", "baseline_cost"], (0.0, math.inf)
    ),
    **dict.fromkeys(["clip_ratio", "clip_value", "target_kl"], (0.0, math.inf)),
    **dict.fromkeys(["epsilon", "grad_norm_clipping"], (1e-30, math.inf)),
    **dict.fromkeys(["num_epochs", "num_minibatches", "lstm_layers"], (1, math.inf)),
    **dict.fromkeys(["hidden_sizes", "env_groups"], (1, math.inf)),
    **dict.fromkeys(["q_lambda", "priority_eta", "importance_exponent"], (0.0, 1.0)),
    **dict.fromkeys(
        [
            "exploration_start",
            "exploration_end",
            "exploration_fraction",
            "exploration_evaluation",
        ],
        (0.0, 1.0),
    ),
    **dict.fromkeys(["huber_kappa", "rescale_epsilon"], (1e-30, math.inf)),
    **dict.fromkeys(["target_rate"], (0.0, 1.0)),
    **dict.fromkeys(["temperature", "initial_temperature", "reward_scale"], (1e-30, math.inf)),
    **dict.fromkeys(["exploration_noise", "target_noise", "target_noise_clip"], (0.0, math.inf)),
    **dict.fromkeys(["policy_delay"], (1, math.inf)),
    **dict.fromkeys(["random_shift"], (0, math.inf)),
    **dict.fromkeys(["replay_ratio"], (1e-9, 1e9)),
    **dict.fromkeys(["priority_exponent"], (0, 100)),
    **dict.fromkeys(["replay_size", "min_replay_size", "n_step"], (1, math.inf)),
    **dict.fromkeys(["sequence_length", "target_interval", "num_quantiles"], (1, math.inf)),
    **dict.fromkeys(["num_taus", "num_target_taus", "num_acting_taus"], (1, math.inf)),
    **dict.fromkeys(["num_atoms"], (2, math.inf)),
    **dict.fromkeys(["inference_min_batch", "inference_max_batch"], (1, math.inf)),
    **dict.fromkeys(["inference_timeout_ms", "inference_threads"], (0, math.inf)),
    **dict.fromkeys(["burn_in", "actors_per_worker", "learner_restarts"], (0, math.inf)),
    **dict.fromkeys(["cpus_per_actor"], (0.001, math.inf)),
    **dict.fromkeys(["weights_interval"], (0.0, math.inf)),
    **dict.fromkeys(["lstm_size", "env_workers", "env_threads", "max_lag"], (0, math.inf)),
}


def check_ranges(config: RunConfig) -> None:
    """Raises ValueError, which names the flag, if a number of ``config`` is out of its range."""
    groups = [config.env, config.algorithm, config.network, config.system]
    groups += [config.cluster, config.output]
    for group in groups:
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            low, high = RANGES.get(field.name, (-math.inf, math.inf))
            numbers = value if isinstance(value, tuple) else (value,)
            for x in numbers:
                if isinstance(x, int | float) and not low <= x <= high:
                    upper = f" to {high:g}" if high < math.inf else " or more"
                    raise ValueError(f"expected --{field.name} of {low:g}{upper}, got {x}")
    normalised = config.network.normalize_rewards
    if normalised and getattr(config.algorithm, "reward_clipping", "none") != "none":
        raise ValueError(
            "expected --reward_clipping none with --normalize_rewards, got abs_one: both set the "
            "scale of rewards"
        )

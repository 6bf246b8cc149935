"""What the commands of 2019, MonoBeast and PolyBeast, have in common: flags and what they mean."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from torchbeast.commands.errors import UsageError
from torchbeast.envs import EnvConfig
from torchbeast.runners.config import Count, RunConfig

NUM_TEST_EPISODES = 10


@dataclasses.dataclass(frozen=True)
class ImpalaFlags:
    """The flags of 2019, with their defaults, that both have."""

    mode: Literal["train", "test", "test_render"] = "train"
    """test plays 10 games with the most probable actions; test_render also writes a video."""
    xpid: str | None = None
    """Experiment id, the name of the run's directory; in test mode by default `latest`."""

    disable_checkpoint: bool = False
    """Disable saving checkpoints."""
    savedir: str = "~/logs/torchbeast"
    """Root directory of the runs."""
    num_actors: int = 4
    """Number of actor processes."""
    total_steps: Count = 100_000
    """Total agent steps to train for."""
    batch_size: int = 8
    """Learner batch size (B)."""
    unroll_length: int = 80
    """The unroll length (time dimension, T)."""
    disable_cuda: bool = False
    """Disable CUDA."""
    use_lstm: bool = False
    """Use an LSTM in the agent's network."""
    seed: int = 1
    """Seeds weights, actions and environments (the ancestor had no such flag)."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """What makes steps of gradients (the ancestor had only RMSProp)."""
    vtrace_lambda: float = 1.0
    """Decay of V-trace's traces (the ancestor's do not decay)."""

    entropy_cost: float = 0.0006
    """Entropy cost/multiplier."""
    baseline_cost: float = 0.5
    """Baseline cost/multiplier."""
    discounting: float = 0.99
    """Discounting factor."""
    reward_clipping: Literal["abs_one", "none"] = "abs_one"
    """Reward clipping."""

    learning_rate: float = 0.00048
    """Learning rate."""
    alpha: float = 0.99
    """RMSProp smoothing constant."""
    momentum: float = 0.0
    """RMSProp momentum."""
    epsilon: float = 0.01
    """RMSProp epsilon."""
    grad_norm_clipping: float = 40.0
    """Global gradient norm clip."""


def impala(
    flags: ImpalaFlags, env: EnvConfig, network: dict[str, Any], system: dict[str, Any]
) -> RunConfig:
    """Returns the config of `torchbeast train impala` that the flags mean.

    ``network`` and ``system`` are settings that they do not say under the same name.
    """
    base, said = RunConfig(), dataclasses.asdict(flags)

    def group(default: Any, **settings: Any) -> Any:
        names = {field.name for field in dataclasses.fields(default)}
        same = {name: value for name, value in said.items() if name in names}
        return dataclasses.replace(default, **(same | settings))

    return RunConfig(
        env=env,
        algorithm=group(base.algorithm),
        network=group(base.network, **network),
        system=group(base.system, **system),
        output=group(base.output, log_interval=0.0, eval_episodes=0),
    )


def test(flags: ImpalaFlags) -> int:
    """Returns 0 after ten games of the run ``--xpid`` with the most probable actions.

    Raises:
        UsageError: there is no such run, or none of its games ends.
    """
    from torchbeast.commands.evaluate import games_of, load_agent, play
    from torchbeast.tools.run_directory import find_run

    try:
        path: Path = find_run(flags.savedir, flags.xpid or "latest")
    except ValueError as error:
        raise UsageError(str(error)) from error
    if flags.mode == "test_render":
        return play([str(path)])
    algorithm, config, _ = load_agent(path)
    limit = config.output.eval_max_steps
    games = games_of(algorithm, config, NUM_TEST_EPISODES, flags.seed + 1000, max_steps=limit)
    if not games:
        raise UsageError(f"no game of {config.env.name} ended within {limit:,} steps", 1)
    for game in games:
        print(f"Episode ended after {game.length} steps. Return: {game.episode_return:.1f}")
    mean = sum(game.episode_return for game in games) / len(games)
    print(f"Average returns over {len(games)} episodes: {mean:.1f}")
    return 0


def life_loss(env: str) -> bool:
    """Returns whether a lost life ends a training episode, as in the ancestor's wrappers."""
    return "NoFrameskip" in env

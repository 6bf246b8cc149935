"""MonoBeast: IMPALA on one machine, by the flags of 2019.

python -m torchbeast.monobeast --env PongNoFrameskip-v4
python -m torchbeast.monobeast --mode test --xpid example

The flags, their defaults and meaning are the ancestor's; a translation to `torchbeast train
impala` is all this file does. What differs on purpose: returns are those of full games, an
actor's crash does not hang the run, the same --xpid continues it, test mode takes LSTMs, and theirs
has 256 units in each of its two layers, not 519.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from torchbeast.commands.errors import UsageError, failing
from torchbeast.commands.flags import parse
from torchbeast.runners.config import Count, RunConfig

NUM_TEST_EPISODES = 10


@dataclasses.dataclass(frozen=True)
class Flags:
    """IMPALA on one machine, with the flags of MonoBeast."""

    env: str = "PongNoFrameskip-v4"
    """Environment of Gymnasium, or module:function."""
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
    num_buffers: int | None = None
    """Number of shared-memory rollouts; by default max(2 * num_actors, batch_size)."""
    num_learner_threads: Annotated[int, tyro.conf.arg(aliases=["--num_threads"])] = 2
    """Threads of the learner: here, those that PyTorch computes with."""
    disable_cuda: bool = False
    """Disable CUDA."""
    use_lstm: bool = False
    """Use an LSTM in the agent's network."""
    seed: int = 1
    """Seeds weights, actions and environments (the ancestor had no such flag)."""

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


def run_config(flags: Flags) -> RunConfig:
    """Returns the config of `torchbeast train impala` that the flags mean.

    Raises:
        UsageError: the buffers are too few.
    """
    num_buffers = flags.num_buffers
    if num_buffers is None:
        num_buffers = max(2 * flags.num_actors, flags.batch_size)
    if flags.num_actors >= num_buffers:
        raise UsageError(
            f"expected --num_buffers larger than the {flags.num_actors} actors, got {num_buffers}"
        )
    if num_buffers < flags.batch_size:
        raise UsageError(
            f"expected --num_buffers of at least the batch size {flags.batch_size}, got "
            f"{num_buffers}"
        )
    base = RunConfig()
    shared = dataclasses.asdict(flags)

    def taken(group: object, **settings: Any) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(group)}  # type: ignore[arg-type]
        return {name: value for name, value in shared.items() if name in names} | settings

    # The ancestor's wrappers end a training episode with each lost life.
    life_loss = "NoFrameskip" in flags.env
    return RunConfig(
        env=dataclasses.replace(base.env, **taken(base.env, life_loss=life_loss)),
        algorithm=dataclasses.replace(base.algorithm, **taken(base.algorithm)),
        network=dataclasses.replace(base.network, **taken(base.network, lstm_layers=2)),
        system=dataclasses.replace(
            base.system,
            **taken(
                base.system,
                num_buffers=num_buffers,
                torch_threads=flags.num_learner_threads,
            ),
        ),
        output=dataclasses.replace(
            base.output, **taken(base.output, log_interval=0.0, eval_episodes=0)
        ),
    )


def test(flags: Flags) -> int:
    """Returns 0 after ten games of the run ``--xpid`` with the most probable actions."""
    from torchbeast.commands.evaluate import games_of, load_agent, play
    from torchbeast.tools.run_directory import find_run

    try:
        path: Path = find_run(flags.savedir, flags.xpid or "latest")
    except ValueError as error:
        raise UsageError(str(error)) from error
    if flags.mode == "test_render":
        return play([str(path)])
    algorithm, config, _ = load_agent(path)
    games = games_of(algorithm, config, NUM_TEST_EPISODES, seed=flags.seed + 1000)
    for game in games:
        print(f"Episode ended after {game.length} steps. Return: {game.episode_return:.1f}")
    mean = sum(game.episode_return for game in games) / len(games)
    print(f"Average returns over {len(games)} episodes: {mean:.1f}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of `python -m torchbeast.monobeast`."""
    from torchbeast.commands.train import launch

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    flags = parse(Flags(), "torchbeast.monobeast", arguments)
    try:
        with failing():
            return launch(run_config(flags)) if flags.mode == "train" else test(flags)
    except UsageError as error:
        print(f"torchbeast.monobeast: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

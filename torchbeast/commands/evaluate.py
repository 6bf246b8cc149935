"""`torchbeast eval` and `torchbeast play`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchbeast import envs
from torchbeast.algorithms.base import Algorithm
from torchbeast.commands.errors import UsageError
from torchbeast.commands.flags import parse
from torchbeast.commands.train import config_of, describe, run_argument
from torchbeast.envs.vector import Episode
from torchbeast.loops.evaluate import evaluate as play_games
from torchbeast.runners.checks import ConfigError
from torchbeast.runners.config import RunConfig
from torchbeast.runners.jobs import make_algorithm
from torchbeast.tools import checkpoint
from torchbeast.tools.video import write_video


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """How a trained agent plays."""

    episodes: int = 10
    """Full games, one in each of as many environments."""
    seed: int = 1000
    """Seeds the environments; training used others."""
    explore: bool = False
    """Sample actions as in training; else the most probable ones."""
    best: bool = False
    """Take the checkpoint with the best mean return of 100 games (of fewer: the newest)."""
    json: bool = False
    """Print the games as JSON."""
    max_steps: int = 30_000
    """Give up on games that last longer."""
    savedir: str = RunConfig().output.savedir
    """Folder of all runs."""


@dataclasses.dataclass(frozen=True)
class PlayFlags:
    """Which game becomes a video."""

    output: str | None = None
    """The file; by default videos/step-N.mp4 in the directory of the run."""
    seed: int = 1000
    """Seeds the environment."""
    explore: bool = False
    """Sample actions as in training; else the most probable ones."""
    best: bool = False
    """Take the checkpoint with the best mean return of 100 games (of fewer: the newest)."""
    max_steps: int = 3_000
    """Stop after so many agent steps."""
    fps: int = 30
    """Pictures per second."""
    savedir: str = RunConfig().output.savedir
    """Folder of all runs."""


def evaluate(arguments: Sequence[str]) -> int:
    """Returns 0 after ``torchbeast eval RUN [flags]`` printed how the games went."""
    path, rest = run_argument("eval", arguments)
    flags = parse(EvalFlags(), f"torchbeast eval {path.name}", rest)
    if flags.episodes < 1:
        raise UsageError(f"expected --episodes of at least 1, got {flags.episodes}")
    algorithm, config, step = load_agent(path, flags.best)
    games = games_of(algorithm, config, flags.episodes, flags.seed, flags.explore, flags.max_steps)
    if not games:
        raise UsageError(f"no game ended within {flags.max_steps} steps; raise --max_steps", 1)
    if flags.json:
        print(json.dumps({"step": step, "games": [game._asdict() for game in games]}))
        return 0
    for game in games:
        end = "  (time limit)" if game.truncated else ""
        print(f"game {game.env:3d}  return {game.episode_return:9.1f}  length {game.length}{end}")
    print(f"{path.name} at step {step:,}: {describe(games)}")
    return 0


def play(arguments: Sequence[str]) -> int:
    """Returns 0 after ``torchbeast play RUN [flags]`` wrote one game as a video."""
    path, rest = run_argument("play", arguments)
    flags = parse(PlayFlags(), f"torchbeast play {path.name}", rest)
    algorithm, config, step = load_agent(path, flags.best)
    env = envs.make(_evaluated(config), 1, flags.seed, num_threads=1, render=True)
    frames: list[np.ndarray[Any, Any]] = []
    torch.manual_seed(flags.seed)
    try:
        games = play_games(
            algorithm,
            env,
            flags.explore,
            flags.max_steps,
            on_row=lambda: frames.append(env.render()),
        )
    except ValueError as error:
        raise UsageError(f"{config.env.name} cannot be shown: {error}") from error
    finally:
        env.close()
    target = Path(flags.output) if flags.output else path / "videos" / f"step-{step}.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    written = write_video(target, frames, flags.fps)
    outcome = describe(games) if games else f"not finished after {flags.max_steps} steps"
    print(f"{outcome}\nvideo in {written}")
    return 0


def load_agent(path: Path, best: bool = False) -> tuple[Algorithm, RunConfig, int]:
    """Returns the trained algorithm of a run, its config, and the step of its checkpoint.

    Raises:
        UsageError, CheckpointError: there is nothing to load, or it does not fit.
    """
    config = config_of(path)
    # Not every machine that looks at an agent computes in bfloat16; the weights are float32.
    network = dataclasses.replace(config.network, precision="float32")
    config = dataclasses.replace(config, network=network)
    chosen = checkpoint.best(path) if best else None
    saved = checkpoint.load(chosen or path)
    try:
        algorithm = make_algorithm(config, envs.spec(_evaluated(config)), 1)
        algorithm.model.load_state_dict(saved.model)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except RuntimeError as error:
        raise checkpoint.CheckpointError(
            f"{path}: the weights do not fit the network of config.yaml: {error}"
        ) from error
    return algorithm, config, saved.step


def games_of(
    algorithm: Algorithm,
    config: RunConfig,
    episodes: int,
    seed: int,
    explore: bool = False,
    max_steps: int | None = None,
    on_row: Callable[[], None] | None = None,
) -> list[Episode]:
    """Returns ``episodes`` full games of the algorithm, on environments made for them."""
    env = envs.make(_evaluated(config), episodes, seed)
    torch.manual_seed(seed)
    try:
        return play_games(algorithm, env, explore, max_steps, on_row)
    finally:
        env.close()


def _evaluated(config: RunConfig) -> envs.EnvConfig:
    # Servers of the run may be gone: what they served has the same name here.
    return dataclasses.replace(config.env, life_loss=False, env_workers=0, env_servers=())

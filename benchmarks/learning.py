"""Learning curves over seeds: launches what is missing, resumes what was stopped, and sums up.

    python benchmarks/learning.py cartpole ppo-cartpole
    python benchmarks/learning.py memory memory-feedforward --seeds 1 2
    python benchmarks/learning.py ppo-pong --summarize-only
    python benchmarks/learning.py pong -- --num_learners 2

Each seed is a run NAME-seedK in --savedir; flags after ``--`` are added to all. Start the command
again after an interruption: finished runs are skipped, others go on from their last checkpoint. The
results of NAME are benchmarks/results/NAME.json, NAME.png, and NAME-seedK.csv with the mean return
of the last games (100, or what the experiment says) at up to 500 of them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from torchbeast.tools.logs import Curve, read_curve, seconds_run
from torchbeast.tools.plot import plot_curves, running_mean
from torchbeast.tools.run_directory import DEFAULT_SAVEDIR, expand, read_meta
from torchbeast.tools.tables import csv_line, read_table

RESULTS = pathlib.Path(__file__).parent / "results"
POINTS = 500


class Experiment(NamedTuple):
    """What is learned, and what counts as learned."""

    algorithm: str
    flags: tuple[str, ...]
    seeds: int
    total_steps: int
    target: float  # mean return of so many games:
    window: int = 100


def minatar(game: str) -> tuple[str, ...]:
    """Returns the flags of a game as gymnax plays it, whose scores are the targets."""
    return ("--env", f"MinAtar/{game}-v1", "--env_kwargs", "sticky_action_prob=0.0")


# The settings that R2D2's preset has there, but for its memory.
DQN_ON_TMAZE = (
    *("--env", "TMaze-v0", "--batch_size", "64", "--replay_ratio", "32", "--n_step", "3"),
    *("--double", "--dueling", "--prioritized", "--learning_rate", "0.001"),
    *("--min_replay_size", "2000", "--target_interval", "2000"),
    *("--exploration_end", "0.02", "--exploration_fraction", "0.3"),
)

# A cluster of this machine alone, with as many environments as the presets have.
CLUSTER = ("--runner", "cluster", "--num_actors", "2", "--envs_per_actor", "4")

POLYBEAST = (
    *("--env", "PongNoFrameskip-v4", "--num_servers", "1", "--num_actors", "1"),
    *("--envs_per_actor", "8", "--network", "shallow", "--unroll_length", "20"),
    *("--batch_size", "4", "--optimizer", "adam", "--epsilon", "1e-5"),
    *("--learning_rate", "0.0005", "--entropy_cost", "0.01", "--vtrace_lambda", "0.95"),
)

EXPERIMENTS = {
    "cartpole": Experiment("impala", ("--env", "CartPole-v1"), 20, 500_000, 475.0),
    # The same batch, half of it from each of two processes.
    "cartpole-2learners": Experiment(
        "impala", ("--env", "CartPole-v1", "--num_learners", "2"), 20, 500_000, 475.0
    ),
    "pong": Experiment("impala", ("--env", "PongNoFrameskip-v4"), 3, 6_000_000, 18.0),
    "memory": Experiment("impala", ("--env", "TMaze-v0", "--use_lstm"), 3, 1_000_000, 0.9),
    # The control, which cannot remember: it is not to reach the target.
    "memory-feedforward": Experiment("impala", ("--env", "TMaze-v0"), 3, 1_000_000, 0.9),
    "a2c-cartpole": Experiment("a2c", ("--env", "CartPole-v1"), 3, 500_000, 475.0),
    "a2c-pong": Experiment("a2c", ("--env", "PongNoFrameskip-v4"), 3, 10_000_000, 17.0),
    "ppo-cartpole": Experiment("ppo", ("--env", "CartPole-v1"), 3, 100_000, 490.0),
    "ppo-acrobot": Experiment("ppo", ("--env", "Acrobot-v1"), 3, 500_000, -90.0),
    "ppo-lunarlander": Experiment("ppo", ("--env", "LunarLander-v3"), 3, 1_000_000, 220.0),
    "ppo-halfcheetah": Experiment("ppo", ("--env", "HalfCheetah-v5"), 3, 1_000_000, 5819.0),
    "ppo-hopper": Experiment("ppo", ("--env", "Hopper-v5"), 3, 1_000_000, 2410.0),
    "ppo-breakout": Experiment("ppo", minatar("Breakout"), 3, 10_000_000, 28.0),
    "ppo-asterix": Experiment("ppo", minatar("Asterix"), 3, 10_000_000, 15.0),
    "ppo-spaceinvaders": Experiment("ppo", minatar("SpaceInvaders"), 3, 10_000_000, 131.0),
    "ppo-minigrid": Experiment("ppo", ("--env", "MiniGrid-DoorKey-5x5-v0"), 3, 200_000, 0.9),
    "ppo-memory": Experiment("ppo", ("--env", "TMaze-v0", "--use_lstm"), 3, 300_000, 0.9),
    "ppo-memory-feedforward": Experiment("ppo", ("--env", "TMaze-v0"), 3, 300_000, 0.9),
    "ppo-pong": Experiment("ppo", ("--env", "PongNoFrameskip-v4"), 3, 4_000_000, 18.0),
    **{
        f"{algorithm}-cartpole": Experiment(algorithm, ("--env", "CartPole-v1"), 3, 100_000, 475.0)
        for algorithm in ("dqn", "c51", "qrdqn", "iqn", "rainbow", "apex")
    },
    # At 20k steps Stable-Baselines3's zoo has -157 (SAC) and -152 (TD3).
    "sac-pendulum": Experiment("sac", ("--env", "Pendulum-v1"), 3, 20_000, -180.0, 20),
    "td3-pendulum": Experiment("td3", ("--env", "Pendulum-v1"), 3, 20_000, -180.0, 20),
    "ddpg-pendulum": Experiment("ddpg", ("--env", "Pendulum-v1"), 3, 20_000, -180.0, 20),
    "d4pg-pendulum": Experiment("d4pg", ("--env", "Pendulum-v1"), 3, 20_000, -180.0, 20),
    **{
        f"{algorithm}-{robot.lower()}": Experiment(
            algorithm, ("--env", f"{robot}-v5"), 3, 1_000_000, target
        )
        for algorithm, robot, target in (
            ("sac", "Hopper", 2326.0),
            ("sac", "HalfCheetah", 9635.0),
            ("sac", "Walker2d", 3863.0),
            ("td3", "Hopper", 3606.0),
            ("td3", "HalfCheetah", 9656.0),
            ("td3", "Walker2d", 4718.0),
        )
    },
    "sac-bipedalwalker": Experiment("sac", ("--env", "BipedalWalker-v3"), 3, 400_000, 280.0),
    "sac_discrete-cartpole": Experiment(
        "sac_discrete", ("--env", "CartPole-v1"), 3, 100_000, 475.0
    ),
    "dqn-lunarlander": Experiment("dqn", ("--env", "LunarLander-v3"), 3, 500_000, 200.0),
    "rainbow-lunarlander": Experiment("rainbow", ("--env", "LunarLander-v3"), 3, 500_000, 200.0),
    "rainbow-pong": Experiment("rainbow", ("--env", "PongNoFrameskip-v4"), 3, 1_500_000, 18.0),
    "r2d2-memory": Experiment("r2d2", ("--env", "TMaze-v0"), 3, 150_000, 0.9),
    # The control: the same without memory.
    "dqn-memory": Experiment("dqn", DQN_ON_TMAZE, 3, 150_000, 0.9),
    "cluster-cartpole": Experiment("impala", ("--env", "CartPole-v1", *CLUSTER), 3, 500_000, 475.0),
    "cluster-ppo-cartpole": Experiment(
        "ppo", ("--env", "CartPole-v1", *CLUSTER), 3, 100_000, 490.0
    ),
    "cluster-r2d2-memory": Experiment("r2d2", ("--env", "TMaze-v0", *CLUSTER), 3, 150_000, 0.9),
    "cluster-pong": Experiment(
        "impala", ("--env", "PongNoFrameskip-v4", *CLUSTER), 3, 6_000_000, 18.0
    ),
    # PolyBeast's own command, told the settings of the preset.
    "polybeast-pong": Experiment("polybeast", POLYBEAST, 3, 6_000_000, 18.0),
    "pqn-cartpole": Experiment("pqn", ("--env", "CartPole-v1"), 3, 500_000, 475.0),
    "pqn-breakout": Experiment("pqn", minatar("Breakout"), 3, 10_000_000, 28.0),
    # MinAtar's own rules, with sticky actions, as its paper's DQN played (arXiv:1903.03176).
    "dqn-breakout": Experiment("dqn", ("--env", "MinAtar/Breakout-v1"), 3, 5_000_000, 10.0),
    "dqn-asterix": Experiment("dqn", ("--env", "MinAtar/Asterix-v1"), 3, 5_000_000, 17.0),
    "dqn-spaceinvaders": Experiment(
        "dqn", ("--env", "MinAtar/SpaceInvaders-v1"), 3, 5_000_000, 44.0
    ),
    "rainbow-breakout": Experiment("rainbow", ("--env", "MinAtar/Breakout-v1"), 3, 5_000_000, 10.0),
    "rainbow-asterix": Experiment("rainbow", ("--env", "MinAtar/Asterix-v1"), 3, 5_000_000, 17.0),
    "rainbow-spaceinvaders": Experiment(
        "rainbow", ("--env", "MinAtar/SpaceInvaders-v1"), 3, 5_000_000, 44.0
    ),
}


def run_path(savedir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Returns the directory of one seed's run."""
    return savedir / f"{name}-seed{seed}"


def last_step(path: pathlib.Path) -> int:
    """Returns the steps that a run has logged, 0 if it has not begun."""
    fields, rows = read_table(path / "logs.csv", path / "fields.csv")
    return int(float(rows[-1][fields.index("step")])) if rows else 0


def is_finished(path: pathlib.Path, experiment: Experiment) -> bool:
    """Returns whether a run did all its steps and ended well."""
    ended = bool(read_meta(path).get("successful"))
    return ended and last_step(path) >= experiment.total_steps


def launch(path: pathlib.Path, experiment: Experiment, seed: int, flags: Sequence[str]) -> None:
    """Runs one seed, from its last checkpoint if there is one; SystemExit if it was stopped."""
    if experiment.algorithm == "polybeast":
        command = [sys.executable, "-m", "torchbeast.polybeast"]
    else:
        command = [sys.executable, "-m", "torchbeast.cli", "train", experiment.algorithm]
    command += experiment.flags
    command += [*flags, "--total_steps", str(experiment.total_steps), "--seed", str(seed)]
    command += ["--savedir", str(path.parent), "--xpid", path.name]
    print(f"{path.name}: from step {last_step(path):,}\n  {' '.join(command)}", flush=True)
    process = subprocess.Popen(command)
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:  # the run had it too: it saves and leaves
            continue
    if code:
        sys.exit(code)


def last_evaluation(path: pathlib.Path) -> float | None:
    """Returns the mean return of the last evaluation, None if there was none."""
    fields, rows = read_table(path / "logs.csv", path / "fields.csv")
    if "eval_return" not in fields:
        return None
    column = fields.index("eval_return")
    found = [float(row[column]) for row in rows if row[column] not in ("", "nan")]
    return found[-1] if found else None


def summarize(
    path: pathlib.Path, curve: Curve, seed: int, target: float, window: int
) -> dict[str, Any]:
    """Returns what one seed's run came to."""
    means = running_mean(curve, window)
    enough = np.arange(1, len(means) + 1) >= window
    reached = np.flatnonzero(enough & (means >= target))
    return {
        "seed": seed,
        "steps": last_step(path),
        "games": len(means),
        "reached_at": int(curve.steps[reached[0]]) if len(reached) else None,
        "final_mean": float(means[-1]),
        "best_mean": float(means[enough].max()) if enough.any() else None,
        "evaluation": last_evaluation(path),
        "wall_seconds": round(seconds_run(path), 1),
        "commit": (read_meta(path).get("git") or {}).get("commit"),
    }


def write_curve(curve: Curve, target: pathlib.Path, window: int) -> None:
    """Writes the mean of the last ``window`` games at up to 500 of them."""
    means = running_mean(curve, window)
    chosen = np.unique(np.linspace(0, len(means) - 1, POINTS - 1).round().astype(int))
    lines = [csv_line(["step", f"mean_return_{window}"])]
    lines += [csv_line([int(curve.steps[i]), f"{means[i]:.5g}"]) for i in chosen]
    target.write_text("".join(lines))


def write_results(
    name: str, seeds: Sequence[int], savedir: pathlib.Path, results: pathlib.Path
) -> None:
    """Writes the JSON, the picture and the curves of what there is of an experiment."""
    experiment = EXPERIMENTS[name]
    results.mkdir(parents=True, exist_ok=True)
    rows, paths = [], []
    for seed in seeds:
        path = run_path(savedir, name, seed)
        try:
            curve = read_curve(path)
        except ValueError as error:
            print(f"{name} seed {seed} is left out: {error}")
            continue
        row = summarize(path, curve, seed, experiment.target, experiment.window)
        rows.append(row | {"finished": is_finished(path, experiment)})
        paths.append(path)
        write_curve(curve, results / f"{path.name}.csv", experiment.window)
        print(json.dumps(rows[-1]))
    if not rows:
        sys.exit(f"expected runs {name}-seedK with finished games in {savedir}, got none")
    summary = experiment._asdict() | {
        "args": read_meta(paths[0]).get("args"),
        "hardware": read_meta(paths[0]).get("hardware"),
        "versions": read_meta(paths[0]).get("versions"),
        "reached": sum(row["reached_at"] is not None for row in rows),
        "runs": rows,
    }
    (results / f"{name}.json").write_text(json.dumps(_portable(summary), indent=2) + "\n")
    plot_curves(
        paths,
        results / f"{name}.png",
        f"{name}: {experiment.algorithm}, {len(rows)} seeds",
        experiment.window,
    )
    print(f"results in {results / name}.json, .png")


def _portable(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the summary without paths of this machine."""
    args = summary.get("args")
    if isinstance(args, dict):
        kept = {key: value for key, value in args.items() if key != "output"}
        kept["env"] = {k: v for k, v in args["env"].items() if k != "env_servers"}
        summary = summary | {"args": kept}
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", metavar="NAME", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", help="by default 1, 2, ...")
    parser.add_argument("--savedir", default=DEFAULT_SAVEDIR)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--summarize-only", action="store_true", help="launch nothing")
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    arguments, flags = parser.parse_args(given[:cut]), given[cut + 1 :]
    savedir = expand(arguments.savedir)
    for name in arguments.names:
        experiment = EXPERIMENTS[name]
        seeds = arguments.seeds or range(1, experiment.seeds + 1)
        for seed in seeds if not arguments.summarize_only else ():
            path = run_path(savedir, name, seed)
            if is_finished(path, experiment):
                print(f"{path.name}: finished before")
            else:
                launch(path, experiment, seed, flags)
        write_results(name, seeds, savedir, arguments.results)


if __name__ == "__main__":
    main()

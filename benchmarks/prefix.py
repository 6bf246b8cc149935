"""The first steps of a long run beside the same of Stable-Baselines3: what episodes earned.

    python benchmarks/prefix.py peer sac Hopper-v5 --steps 60000 --seed 1 --output peer.csv
    torchbeast train sac --env Hopper-v5 --total_steps 60000 --seed 1 --xpid hopper
    python benchmarks/prefix.py compare sac-hopper-prefix RUNS/hopper/episodes.csv peer.csv

``peer`` runs in an interpreter that has Stable-Baselines3, with the settings of its zoo for MuJoCo
and one thread. ``compare`` prints the mean return of the training episodes that ended in each
stretch of steps, and writes them to benchmarks/results/NAME.csv and .png.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"
Episodes = list[tuple[float, float]]  # (step at its end, return)


def train_peer(arguments: argparse.Namespace) -> None:
    """Trains Stable-Baselines3 and writes a row for each episode."""
    import gymnasium
    import numpy as np
    import torch
    from stable_baselines3 import SAC, TD3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise

    class Rows(BaseCallback):
        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    writer.writerow([self.num_timesteps, info["episode"]["r"]])
                    file.flush()
            return True

    torch.set_num_threads(1)
    env = gymnasium.make(arguments.env)
    settings: dict[str, Any] = dict(
        learning_starts=10_000, batch_size=256, train_freq=1, seed=arguments.seed, device="cpu"
    )
    if arguments.algorithm == "td3":
        size = env.action_space.shape[0]  # type: ignore[index]
        settings["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
    model = {"sac": SAC, "td3": TD3}[arguments.algorithm]("MlpPolicy", env, **settings)
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "episode_return"])
        model.learn(arguments.steps, callback=Rows())


def read(path: pathlib.Path) -> Episodes:
    """Returns the episodes of a file with columns for the step and the return."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    name = "return" if "return" in rows[0] else "episode_return"
    return [(float(row["step"]), float(row[name])) for row in rows]


def means(episodes: Episodes, every: int, end: int) -> list[float | None]:
    """Returns the mean return of the episodes that ended in each ``every`` steps up to ``end``."""
    result: list[float | None] = []
    for start in range(0, end, every):
        found = [r for step, r in episodes if start < step <= start + every]
        result.append(sum(found) / len(found) if found else None)
    return result


def compare(arguments: argparse.Namespace) -> None:
    """Prints and writes the means of both, and draws all episodes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    both = {"TorchBeast": read(arguments.ours), "Stable-Baselines3": read(arguments.peer)}
    end = int(max(step for step, _ in both["TorchBeast"]))
    columns = [means(episodes, arguments.every, end) for episodes in both.values()]
    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    for name, episodes in both.items():
        axes.plot(*zip(*episodes, strict=True), ".", markersize=3, label=name)
    axes.set(xlabel="environment steps", ylabel="return of a training episode")
    axes.legend()
    axes.set_title(arguments.name)
    figure.savefig(RESULTS / f"{arguments.name}.png", dpi=110, bbox_inches="tight")
    with (RESULTS / f"{arguments.name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["up_to_step", *both])
        for i, pair in enumerate(zip(*columns, strict=True)):
            row = [(i + 1) * arguments.every, *("" if x is None else f"{x:.1f}" for x in pair)]
            writer.writerow(row)
            print(*row, sep="\t")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    peer = commands.add_parser("peer", help="run Stable-Baselines3")
    peer.add_argument("algorithm", choices=["sac", "td3"])
    peer.add_argument("env")
    peer.add_argument("--steps", type=int, default=60_000)
    peer.add_argument("--seed", type=int, default=1)
    peer.add_argument("--output", type=pathlib.Path, required=True)
    peer.set_defaults(function=train_peer)
    both = commands.add_parser("compare", help="put a run beside it")
    both.add_argument("name", help="of the results")
    both.add_argument("ours", type=pathlib.Path, help="episodes.csv of a run")
    both.add_argument("peer", type=pathlib.Path, help="what `peer` wrote")
    both.add_argument("--every", type=int, default=10_000, help="steps of a stretch")
    both.set_defaults(function=compare)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()

"""DQN and PQN beside Stable-Baselines3 and CleanRL: steps per second once learning has begun.

    python benchmarks/dqn_peers.py --task dqn-pong --peer_python /peers/venv/bin/python \\
        --cleanrl /peers/cleanrl --rounds 3 -- --batch_size 32 --torch_threads 2

What follows ``--`` are flags of ``torchbeast train``: give those that make our settings equal to
the ones of the task below. ``--cleanrl`` is a checkout that runs with today's Gymnasium,
``--peer_python`` an interpreter that has what both peers need. Each program is run for ``--steps``
steps, as a whole process, one after the other in each round; peers once for each number of
``--threads`` and are judged by their best. The chance of a random action is at its end when
learning begins, since the peers ask no network for such an action. PQN exists only in CleanRL.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

EVERY = 100  # steps between two lines of a DQN peer


class Task(NamedTuple):
    """What is learned; the settings have CleanRL's names, without them its own hold."""

    algorithm: str
    env: str
    steps: int  # of a run
    script: str  # CleanRL's
    every: int  # steps between two lines that it prints
    settings: Mapping[str, float]
    hidden: tuple[int, ...] = ()  # sizes of Stable-Baselines3's network; (): the one for pictures


PONG = {
    "learning_rate": 1e-4,
    "buffer_size": 50_000,
    "learning_starts": 1000,
    "batch_size": 32,
    "train_frequency": 4,
    "target_network_frequency": 1000,
    "end_e": 0.01,
}
CARTPOLE = {
    "learning_rate": 2.5e-4,
    "buffer_size": 10_000,
    "learning_starts": 1000,
    "batch_size": 128,
    "train_frequency": 10,
    "target_network_frequency": 500,
    "end_e": 0.05,
}
PQN = {"num_envs": 4, "num_steps": 128, "num_minibatches": 4, "update_epochs": 4}
TASKS = {
    "dqn-pong": Task("dqn", "PongNoFrameskip-v4", 6000, "dqn_atari", EVERY, PONG),
    "dqn-cartpole": Task("dqn", "CartPole-v1", 60_000, "dqn", EVERY, CARTPOLE, (120, 84)),
    "pqn-cartpole": Task("pqn", "CartPole-v1", 100_000, "pqn", 4 * 128, PQN),
}


class Point(NamedTuple):
    """When a program said that it had done so many steps."""

    time: float
    step: float


class Run(NamedTuple):
    """One run of one program."""

    who: str
    load: float  # of the machine, one minute before it
    steps_per_second: float
    window: float  # seconds


def speed(points: list[Point], first: float) -> tuple[float, float]:
    """Returns steps per second from step ``first`` to the last point, and the seconds of that.

    Raises:
        ValueError: there are not two points from there on.
    """
    inside = [point for point in points if point.step >= first]
    if len(inside) < 2:
        raise ValueError(f"expected two points from step {first:g} on, got {len(inside)}")
    seconds = inside[-1].time - inside[0].time
    return (inside[-1].step - inside[0].step) / seconds, seconds


def peer_env(env: str) -> str:
    """Returns the name by which gymnasium.make also imports what registers the environment."""
    return f"ale_py:{env}" if "NoFrameskip" in env else env


def exploration_fraction(task: Task, steps: int) -> float:
    """Returns the part of a run in which the chance of a random action falls."""
    return task.settings["learning_starts"] / steps


def cleanrl(arguments: argparse.Namespace) -> list[str]:
    """Returns the command of CleanRL's script."""
    task, script = arguments.task, arguments.cleanrl / "cleanrl" / f"{arguments.task.script}.py"
    settings = {"env_id": peer_env(task.env), "total_timesteps": arguments.steps, **task.settings}
    if task.algorithm == "dqn":
        settings["exploration_fraction"] = exploration_fraction(task, arguments.steps)
    flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items()]
    return [arguments.peer_python, str(script), "--no-cuda", *itertools.chain(*flags)]


def stable_baselines(name: str, steps: int, num_envs: int) -> None:
    """Trains Stable-Baselines3's DQN and prints a line every 100 steps that it learns."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    task = TASKS[name]
    settings, pictures = task.settings, not task.hidden

    class Tell(BaseCallback):
        next_line = settings["learning_starts"] + EVERY

        def _on_step(self) -> bool:
            if self.num_timesteps >= self.next_line:
                self.next_line += EVERY
                print("SPS", self.num_timesteps, flush=True)
            return True

    make: Any = make_atari_env if pictures else make_vec_env
    envs = make(peer_env(task.env), n_envs=num_envs, seed=1)
    same = ("learning_rate", "buffer_size", "learning_starts", "batch_size")
    model = DQN(
        "CnnPolicy" if pictures else "MlpPolicy",
        VecFrameStack(envs, 4) if pictures else envs,
        **{key: settings[key] for key in same},
        train_freq=settings["train_frequency"],  # steps of each environment
        gradient_steps=num_envs,
        target_update_interval=settings["target_network_frequency"],
        exploration_fraction=exploration_fraction(task, steps),
        exploration_final_eps=settings["end_e"],
        # Pictures are stored once, as CleanRL stores them; the two options exclude each other.
        optimize_memory_usage=pictures,
        replay_buffer_kwargs={"handle_timeout_termination": not pictures},
        policy_kwargs=None if pictures else {"net_arch": list(task.hidden)},
        device="cpu",
    )
    model.learn(steps, callback=Tell())


def peer_points(command: list[str], every: int, threads: str, path: pathlib.Path) -> list[Point]:
    """Returns when a peer told its speed, as it does each ``every`` steps, counted from there."""
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": str(path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "CUDA_VISIBLE_DEVICES": "",
    }
    points: list[Point] = []
    output: list[str] = []
    with (
        tempfile.TemporaryDirectory() as empty,
        subprocess.Popen(
            command,
            cwd=empty,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("SPS"):  # what it says is the mean since the start: not used
                points.append(Point(time.time(), every * len(points)))
            output.append(line)
    if process.returncode:
        sys.exit(f"{shlex.join(command)}\nfailed:\n{''.join(output[-20:])}")
    return points


def our_points(arguments: argparse.Namespace) -> list[Point]:
    """Returns the rows of our log, steps counted from the one at which learning begins."""
    from torchbeast.tools.tables import read_table  # the peers' interpreter does not have it

    with tempfile.TemporaryDirectory(prefix="torchbeast-") as savedir:
        command = [sys.executable, "-m", "torchbeast.cli", "train", arguments.task.algorithm]
        command += ["--env", arguments.task.env, *arguments.flags]
        command += ["--total_steps", str(arguments.steps), "--eval_episodes", "0"]
        command += ["--disable_checkpoint", "--disable_tensorboard", "--log_interval", "0.5"]
        command += ["--savedir", savedir, "--xpid", "run"]
        done = subprocess.run(command, cwd=savedir, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{shlex.join(command)}\nfailed:\n{(done.stdout + done.stderr)[-2000:]}")
        fields, rows = read_table(pathlib.Path(savedir, "run", "logs.csv"))
    at, step = fields.index("_time"), fields.index("step")
    start = arguments.task.settings.get("learning_starts", 0)
    points = (Point(float(row[at]), float(row[step]) - start) for row in rows)
    return [point for point in points if point.step >= 0]


def measure(who: str, arguments: argparse.Namespace) -> Run:
    """Returns how fast one program ran; peers are named cleanrl-THREADS and sb3-THREADS-ENVS."""
    load = os.getloadavg()[0]
    peer, *numbers = who.split("-")
    if peer == "ours":
        points = our_points(arguments)
    else:
        command, every = cleanrl(arguments), arguments.task.every
        if peer == "sb3":
            command = [arguments.peer_python, os.path.abspath(__file__), "sb3", arguments.name]
            command, every = [*command, str(arguments.steps), numbers[1]], EVERY
        points = peer_points(command, every, numbers[0], arguments.cleanrl)
    try:
        rate, window = speed(points, arguments.skip)
    except ValueError as error:
        sys.exit(f"{who}: {error}; raise --steps {arguments.steps} or lower --skip")
    told = f"{rate:10,.1f} steps/s over {window:5.1f} s   load before {load:.1f}"
    print(f"{who:10} {told}", flush=True)
    return Run(who, load, rate, window)


def report(runs: list[Run]) -> dict[str, Any]:
    """Returns the medians, and ours as a multiple of the best one of each peer, printing both."""
    who = dict.fromkeys(run.who for run in runs)  # in the order in which they ran
    medians = {x: statistics.median(r.steps_per_second for r in runs if r.who == x) for x in who}
    best: dict[str, str] = {}
    for x in who:
        peer = x.split("-")[0]
        if x != "ours" and medians[x] > medians.get(best.get(peer, ""), 0.0):
            best[peer] = x
    ratios = {x: medians["ours"] / medians[x] for x in best.values()}
    for x, median in medians.items():
        times = f"   ours is {ratios[x]:.2f} times as fast" if x in ratios else ""
        print(f"median {x:10} {median:10,.1f} steps/s{times}")
    return {"runs": [run._asdict() for run in runs], "medians": medians, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="dqn-pong", help="what is learned")
    parser.add_argument("--peer_python", required=True, help="interpreter of the peers")
    parser.add_argument("--cleanrl", type=pathlib.Path, required=True, help="checkout of CleanRL")
    parser.add_argument("--steps", type=int, help="of each run (the task's)")
    parser.add_argument(
        "--skip", type=int, default=1000, help="steps that are left out once learning has begun"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of peers' PyTorch")
    parser.add_argument(
        "--sb3_envs", type=int, nargs="+", default=[1], help="environments of Stable-Baselines3"
    )
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("flags", nargs="*", help="of torchbeast train, after --")
    arguments = parser.parse_args()
    arguments.name, arguments.task = arguments.task, TASKS[arguments.task]
    arguments.steps = arguments.steps or arguments.task.steps
    arguments.cleanrl = arguments.cleanrl.resolve()
    programs = ["ours", *(f"cleanrl-{n}" for n in arguments.threads)]
    if arguments.task.algorithm == "dqn":
        choices = itertools.product(arguments.threads, arguments.sb3_envs)
        programs += [f"sb3-{threads}-{envs}" for threads, envs in choices]
    runs = [measure(who, arguments) for _ in range(arguments.rounds) for who in programs]
    result = report(runs)
    if arguments.output is not None:
        result |= {"task": arguments.task._asdict(), "flags": arguments.flags}
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["sb3"]:  # the peers' interpreter is at work
        stable_baselines(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()

"""SAC beside Stable-Baselines3, CleanRL and LeanRL: steps per second once learning has begun.

    python benchmarks/sac_peers.py --peer_python /peers/venv/bin/python \\
        --cleanrl /peers/cleanrl --leanrl /peers/leanrl --rounds 3 --threads 1 2 --ours_envs 1 64

All learn Hopper-v5 with the settings below: one update with 256 transitions for each step, two
hidden layers of 256. Ours runs once for each number of environments, with as many updates for each
step; so can Stable-Baselines3 (``--sb3_envs``). Each program is run for ``--steps`` steps, as a
whole process, one after the other in each round and once for each number of threads; peers are
judged by their best. What follows ``--`` are further flags of ``torchbeast train sac``.

``--cleanrl`` is a checkout that runs with today's Gymnasium, ``--leanrl`` a folder with LeanRL's
script of SAC, made to do so and to print a line that starts with SPS every 100 steps, as CleanRL's
does. ``leanrl_eager`` is that script without ``--compile``, ``leanrl_compiled`` is it with the
flag; compiling ends before the first line and is not measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import statistics
import sys
from typing import Any

import dqn_peers  # from this folder

EVERY = 100  # steps between two lines of each peer
SETTINGS = {  # with CleanRL's names
    "buffer_size": 1_000_000,
    "learning_starts": 1000,
    "batch_size": 256,
}
HIDDEN = (256, 256)  # fixed in CleanRL and LeanRL
TASK = dqn_peers.Task(
    "sac", "Hopper-v5", 4000, "sac_continuous_action", EVERY, SETTINGS, hidden=HIDDEN
)
PEERS = ("sb3", "cleanrl", "leanrl_eager", "leanrl_compiled")


def stable_baselines(steps: int, threads: int, num_envs: int) -> None:
    """Trains Stable-Baselines3's SAC and prints a line every 100 steps that it learns."""
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Tell(BaseCallback):
        next_line = SETTINGS["learning_starts"] + EVERY

        def _on_step(self) -> bool:
            while self.num_timesteps >= self.next_line:  # a step of many environments is many
                self.next_line += EVERY
                print("SPS", self.num_timesteps, flush=True)
            return True

    torch.set_num_threads(threads)
    model = SAC(
        "MlpPolicy",
        make_vec_env(TASK.env, n_envs=num_envs, seed=1),
        **SETTINGS,
        train_freq=1,  # steps of each environment
        gradient_steps=num_envs,
        policy_kwargs={"net_arch": list(HIDDEN)},
        device="cpu",
    )
    model.learn(steps, callback=Tell())


def peer_command(peer: str, numbers: list[str], arguments: argparse.Namespace) -> list[str]:
    """Returns the command of a peer; ``numbers`` are threads and, of some, environments."""
    if peer == "sb3":
        script = os.path.abspath(__file__)
        return [arguments.peer_python, script, "sb3", str(arguments.steps), *numbers]
    command = dqn_peers.cleanrl(arguments)
    if peer != "cleanrl":  # LeanRL's flags have the same names
        command[1] = str(arguments.leanrl / "sac_continuous_action_torchcompile.py")
    return [*command, "--compile"] if peer == "leanrl_compiled" else command


def our_flags(threads: str, envs: str) -> list[str]:
    """Returns the flags that make our settings equal to those of the peers."""
    flags = {
        "num_envs": envs,
        "unroll_length": 1,
        "batch_size": SETTINGS["batch_size"],
        "replay_ratio": SETTINGS["batch_size"],  # transitions learned from for each step
        "replay_size": SETTINGS["buffer_size"],
        "min_replay_size": SETTINGS["learning_starts"],
        "activation": "relu",
        "torch_threads": threads,
    }
    pairs = ((f"--{name}", str(value)) for name, value in flags.items())
    return [*itertools.chain(*pairs), "--hidden_sizes", *map(str, HIDDEN)]


def measure(who: str, arguments: argparse.Namespace) -> dqn_peers.Run:
    """Returns how fast one program ran; the names are PROGRAM-THREADS[-ENVIRONMENTS]."""
    load = os.getloadavg()[0]
    program, *numbers = who.split("-")
    if program == "ours":
        flags = our_flags(*numbers) + arguments.flags
        points = dqn_peers.our_points(argparse.Namespace(**vars(arguments) | {"flags": flags}))
    else:
        command = peer_command(program, numbers, arguments)
        points = dqn_peers.peer_points(command, EVERY, numbers[0], arguments.cleanrl)
    try:
        rate, window = dqn_peers.speed(points, arguments.skip)
    except ValueError as error:
        sys.exit(f"{who}: {error}; raise --steps {arguments.steps} or lower --skip")
    told = f"{rate:10,.1f} steps/s over {window:5.1f} s   load before {load:.1f}"
    print(f"{who:18} {told}", flush=True)
    return dqn_peers.Run(who, load, rate, window)


def report(runs: list[dqn_peers.Run]) -> dict[str, Any]:
    """Returns the medians, and each of ours as a multiple of the best one of each peer.

    Both are printed.
    """
    who = dict.fromkeys(run.who for run in runs)  # in the order in which they ran
    medians = {x: statistics.median(r.steps_per_second for r in runs if r.who == x) for x in who}
    for x, median in medians.items():
        print(f"median {x:18} {median:10,.1f} steps/s")
    best: dict[str, str] = {}
    for x in sorted(medians, key=medians.__getitem__):  # the fastest comes last and stays
        best[x.split("-")[0]] = x
    best.pop("ours", None)
    ours = [x for x in medians if x.startswith("ours-")]
    ratios = {x: {peer: medians[x] / medians[peer] for peer in best.values()} for x in ours}
    for x, peer in itertools.product(ours, best.values()):
        print(f"{x:18} is {ratios[x][peer]:.2f} times as fast as {peer}")
    return {"runs": [run._asdict() for run in runs], "medians": medians, "ratios": ratios}


def parse() -> argparse.Namespace:
    """Returns the arguments, completed by what dqn_peers wants to know."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer_python", required=True, help="interpreter of the peers")
    parser.add_argument("--cleanrl", type=pathlib.Path, required=True, help="checkout of CleanRL")
    parser.add_argument("--leanrl", type=pathlib.Path, help="folder with LeanRL's script")
    parser.add_argument("--steps", type=int, default=TASK.steps, help="of each run")
    parser.add_argument(
        "--skip", type=int, default=500, help="steps that are left out once learning has begun"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of PyTorch")
    parser.add_argument(
        "--ours_envs", type=int, nargs="*", default=[1, 64], help="environments; none: only peers"
    )
    parser.add_argument(
        "--sb3_envs", type=int, nargs="+", default=[1], help="environments of Stable-Baselines3"
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="which run")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("flags", nargs="*", help="of torchbeast train sac, after --")
    arguments = parser.parse_args()
    if arguments.leanrl is None and any(peer.startswith("leanrl") for peer in arguments.peers):
        parser.error("expected --leanrl, a folder, for LeanRL; leave it out with --peers")
    arguments.task, arguments.cleanrl = TASK, arguments.cleanrl.resolve()
    arguments.leanrl = arguments.leanrl and arguments.leanrl.resolve()
    return arguments


def main() -> None:
    arguments = parse()
    envs = {"ours": arguments.ours_envs, "sb3": arguments.sb3_envs}
    programs = []
    for program, threads in itertools.product(["ours", *arguments.peers], arguments.threads):
        if program in envs:
            programs += [f"{program}-{threads}-{n}" for n in envs[program]]
        else:
            programs.append(f"{program}-{threads}")
    runs = [measure(who, arguments) for _ in range(arguments.rounds) for who in programs]
    result = report(runs)
    if arguments.output is not None:
        result |= {"task": TASK._asdict(), "steps": arguments.steps, "skip": arguments.skip}
        result |= {"flags": arguments.flags}
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["sb3"]:  # the peers' interpreter is at work
        stable_baselines(*map(int, sys.argv[2:5]))
    else:
        main()

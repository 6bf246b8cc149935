"""`torchbeast bench`: the speed of a run, and of the pieces that bound it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from torchbeast import envs
from torchbeast.commands.errors import UsageError
from torchbeast.commands.flags import train_config
from torchbeast.nets import choose
from torchbeast.runners import checks
from torchbeast.runners.config import RunConfig
from torchbeast.runners.devices import device
from torchbeast.runners.speed import Range, Speed, measure
from torchbeast.tools.provenance import describe_run

LABELS = {
    "env": "environments",
    "forward": "forward pass",
    "update": "update",
    "end_to_end": "end to end",
}


def bench(arguments: Sequence[str]) -> int:
    """Returns 0 after ``torchbeast bench [ALGORITHM] [flags of train]`` printed the speeds."""
    rest = list(arguments)
    name = rest.pop(0) if rest and not rest[0].startswith("-") else "impala"
    own = _parser()
    if "-h" in rest or "--help" in rest:
        own.print_help()
    flags, others = own.parse_known_args(rest)
    config = train_config(name, f"torchbeast bench {name}", others)
    if config is None:
        return 0
    config = checks.checked(config)
    about = {"settings": _settings(config), "machine": _machine()}
    progress = Console(stderr=True, quiet=flags.json or not sys.stderr.isatty())
    try:
        with progress.status("") as status:
            speed = measure(config, flags.rounds, flags.seconds, status.update)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if flags.json:
        timing = {"seconds": flags.seconds, "num_rounds": flags.rounds}
        print(json.dumps(about | timing | speed.as_dict()))
    else:
        _print(about, speed, Console(width=None if sys.stdout.isatty() else 100))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchbeast bench",
        description="Measures environments, forward pass and update alone, and all together; "
        "all other flags are those of `torchbeast train`, as printed below.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (5)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser


def _settings(config: RunConfig) -> dict[str, Any]:
    """Returns the settings that speed depends on."""
    system, network = config.system, config.network
    return {
        "algorithm": config.algo,
        "env": config.env.name,
        "network": choose(network.network, envs.spec(config.env).observation),
        "use_lstm": network.use_lstm,
        "precision": network.precision,
        "unroll_length": config.algorithm.unroll_length,
        "batch_size": config.algorithm.batch_size,
        "num_envs": system.num_envs,
        "env_workers": config.env.env_workers,
        "num_learners": system.num_learners,
        "num_actors": system.num_actors,
        "envs_per_actor": system.envs_per_actor,
        "torch_threads": system.torch_threads,
        "device": str(device(config.system)),
    }


def _machine() -> dict[str, Any]:
    run = describe_run({})
    return {
        **run["hardware"],
        **run["versions"],
        "commit": (run["git"] or {}).get("commit"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def _print(about: dict[str, Any], speed: Speed, console: Console) -> None:
    settings, machine = about["settings"], about["machine"]
    shape = f"T {settings['unroll_length']}, B {settings['batch_size']}"
    if settings["num_actors"]:
        who = f"{settings['num_actors']} actors x {settings['envs_per_actor']} environments"
    else:
        who = f"{settings['num_envs']} environments"
    network = settings["network"] + (" + lstm" if settings["use_lstm"] else "")
    console.print(
        f"{settings['env']}, {network} {settings['precision']}, {shape}, {who}, "
        f"{settings['num_learners']} learner(s) on {settings['device']}",
        highlight=False,
    )
    load = machine["load_average"]
    console.print(
        f"{machine['cpu_model']}, {machine['cpu_allowed']} cores, torch {machine['torch']}"
        + (f", load before {load[0]:.1f}" if load else ""),
        highlight=False,
    )
    console.print(_table(speed))


def _table(speed: Speed) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False)
    for title in ("", "steps/s", "from", "to", "us/step"):
        table.add_column(title, justify="right" if title else "left")
    for name in ("env", "forward", "update"):
        table.add_row(LABELS[name], *_cells(getattr(speed, name)))
    bound = f"{speed.bound:,.0f}"
    table.add_row("bound of the three", bound, "", "", f"{1e6 / speed.bound:,.1f}")
    table.add_row(LABELS["end_to_end"], *_cells(speed.end_to_end))
    table.add_row("efficiency", f"{speed.efficiency:.1%}", "", "", "")
    if speed.all_reduce_ms.max > 0:
        low, high = (f"{x:.2f}" for x in speed.all_reduce_ms[1:])
        table.add_row("all-reduce, ms", f"{speed.all_reduce_ms.median:.2f}", low, high, "")
    return table


def _cells(speed: Range) -> list[str]:
    return [*(f"{x:,.0f}" for x in speed), f"{1e6 / speed.median:,.1f}"]

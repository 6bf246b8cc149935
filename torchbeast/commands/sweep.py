"""`torchbeast sweep`: variants of settings times seeds, many runs at once, and their results."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from torchbeast.commands.errors import UsageError, nearest
from torchbeast.commands.flags import train_config
from torchbeast.runners import sweep as sweeps
from torchbeast.runners.config import ClusterConfig, RunConfig
from torchbeast.runners.sweep import Job, Place, Status, Sweep, SweepTable, Variant
from torchbeast.runners.sweep.on_ray import RayNodes
from torchbeast.runners.sweep.results import Summary, plot_variants
from torchbeast.tools.display import number_text
from torchbeast.tools.run_directory import expand, lock_file
from torchbeast.tools.signals import StopFlag

FAILED = 3  # exit code where a run failed too often


def sweep(arguments: Sequence[str]) -> int:
    """Returns the exit code of ``torchbeast sweep ALGORITHM [flags of train] --vary ...``."""
    own = _parser()
    if not arguments or arguments[0] in ("-h", "--help"):
        own.print_help()
        return 0 if arguments else 2
    algorithm, *rest = arguments
    if algorithm.startswith("-"):
        raise UsageError("expected an algorithm first: torchbeast sweep ALGORITHM [flags]")
    if "-h" in rest or "--help" in rest:
        own.print_help()
    flags, others = own.parse_known_args(rest)
    base = _base_config(algorithm, others)
    if base is None:
        return 0
    if flags.retries < 0 or flags.gpus_per_run < 0 or flags.cpus_per_run < 1:
        raise UsageError("expected --retries and --gpus_per_run of 0 or more, --cpus_per_run of 1")
    axes = [sweeps.axis(text) for text in flags.vary]
    axes += [sweeps.read_variants(Path(path)) for path in flags.variants]
    variants = [
        (variant, _in_slots(_config_of(algorithm, others, variant, base), flags.gpus_per_run))
        for variant in sweeps.grid(axes, alone=base.algo.rpartition(":")[2])
    ]
    varied = {name for variant, _ in variants for name in variant.settings}
    folder = expand(base.output.savedir) / (base.output.xpid or _default_name(base, varied))
    jobs = sweeps.plan(variants, flags.seeds, folder)
    return _run(jobs, _place(flags, base, folder), flags.retries, folder, _title(base, varied))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchbeast sweep ALGORITHM",
        description="Trains every variant with every seed, each run a process of its own, as many "
        "at once as there are slots. Ctrl-C saves all; the same command goes on, and may add "
        "values and seeds. Results lie in SAVEDIR/XPID: results.csv, summary.csv, curves.png. With "
        "--address the runs go on the nodes of a Ray cluster. "
        "All other flags are those of `torchbeast train`; --xpid names the sweep.",
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    vary = "values of a flag of train; of several, every combination is a variant"
    add("--vary", action="append", default=[], metavar="NAME=V1,V2,...", help=vary)
    file = "YAML: names of variants, under each its settings; combined with --vary"
    add("--variants", action="append", default=[], metavar="FILE", help=file)
    add("--seeds", type=int, default=3, help="runs of each variant, from --seed on (3)")
    add("--cpus_per_run", type=int, default=1, help="processor cores of each run (1)")
    gpus = "GPUs of each run; 0.5: two runs share one (0: all compute on the CPU)"
    add("--gpus_per_run", type=float, default=0, help=gpus)
    add("--retries", type=int, default=2, help="times a run that failed is started again (2)")
    node_dir = "folder on the nodes of --address for runs whose savedir they do not share"
    add("--node_dir", metavar="DIR", help=node_dir)
    return parser


def _base_config(algorithm: str, arguments: Sequence[str]) -> RunConfig | None:
    base = train_config(algorithm, f"torchbeast sweep {algorithm}", arguments)
    if base is not None and base.output.restart != "resume":
        raise UsageError(
            f"expected no --restart {base.output.restart} for a sweep, whose runs go on when it is "
            f"started again; choose another --xpid"
        )
    if base is not None and base.cluster.runner != "machine":
        raise UsageError(
            "expected no --runner cluster for a sweep: --address has each run on one node of it"
        )
    return base


def _config_of(
    algorithm: str, arguments: Sequence[str], variant: Variant, base: RunConfig
) -> RunConfig:
    """Returns the config of ``arguments`` with the settings of ``variant``."""
    known = _settings(base) | {"preset": "", "config": ""}
    words: list[str] = []
    switches: dict[str, bool] = {}
    for name, text in variant.settings.items():
        if name in sweeps.NOT_VARIED:
            raise UsageError(f"expected a setting to vary, got '{name}'; seeds are --seeds N")
        if name not in known:
            raise UsageError(
                f"expected a flag of train to vary, got '{name}'; "
                f"did you mean {nearest(name, known)}?"
            )
        if isinstance(known[name], bool):
            if text not in ("true", "false"):
                raise UsageError(f"expected --vary {name}=true,false, got '{text}'")
            switches[name] = text == "true"
        else:
            words += [f"--{name}", *text.split()]
    config = train_config(algorithm, f"torchbeast sweep {algorithm}", [*arguments, *words])
    assert config is not None  # nothing varies --save_config
    return _switched(config, switches)


def _groups(config: RunConfig) -> dict[str, Any]:
    named = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: group for name, group in named.items() if dataclasses.is_dataclass(group)}


def _settings(config: RunConfig) -> dict[str, Any]:
    groups = _groups(config).values()
    return {f.name: getattr(g, f.name) for g in groups for f in dataclasses.fields(g)}


def _switched(config: RunConfig, switches: dict[str, bool]) -> RunConfig:
    """Returns ``config`` with settings that are true or false, whatever group has them."""
    for name, group in _groups(config).items():
        mine = {f.name for f in dataclasses.fields(group)} & set(switches)
        group = dataclasses.replace(group, **{setting: switches[setting] for setting in mine})
        config = dataclasses.replace(config, **{name: group})
    return config


def _in_slots(config: RunConfig, gpus_per_run: float) -> RunConfig:
    """Returns ``config`` of a run that knows of no cluster, and computes with what its slot has."""
    config = dataclasses.replace(config, cluster=ClusterConfig())
    device = config.system.device
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"expected --device auto, cpu or cuda: slots say which, got {device}")
    if device == "cuda" and not gpus_per_run:
        raise UsageError("expected --gpus_per_run above 0 for --device cuda, got 0")
    if gpus_per_run:
        return config
    system = dataclasses.replace(config.system, device="cpu")
    return dataclasses.replace(config, system=system)


def _default_name(config: RunConfig, varied: set[str]) -> str:
    """Returns the name of a sweep, the same for the same command."""
    return re.sub(r"[^\w.+-]+", "_", "sweep-" + _title(config, varied).replace("  ", "-"))


def _title(config: RunConfig, varied: set[str]) -> str:
    algorithm = config.algo.rpartition(":")[2]
    return algorithm if "env" in varied else f"{algorithm}  {config.env.name}"


def _place(flags: argparse.Namespace, base: RunConfig, folder: Path) -> Place:
    if base.cluster.address is None:
        if flags.node_dir is not None:
            raise UsageError("expected --address for --node_dir, which is about its nodes")
        slots = sweeps.slots_of_machine(flags.cpus_per_run, flags.gpus_per_run)
        if not flags.gpus_per_run and sweeps.usable_gpus():
            print("the GPUs stay idle; --gpus_per_run 1 gives each run one", file=sys.stderr)
        return sweeps.LocalSlots(slots)
    resources = flags.cpus_per_run, flags.gpus_per_run
    try:
        return RayNodes(base.cluster, folder, *resources, flags.node_dir)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _run(jobs: Sequence[Job], place: Place, retries: int, folder: Path, title: str) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_file(folder / "sweep.lock")  # RunLocked while the same sweep goes on
    try:
        with StopFlag() as stop:
            sweep = Sweep(jobs, place, retries)
            table = SweepTable(title, str(folder))
            try:
                sweeps.conduct(sweep, place, stop, table.update)
            finally:
                table.close()
            code = stop.exit_code
            _tell_results(folder, sweep.statuses, title)  # a Ctrl-C now does not lose them
        failed = any(status.state == "failed" for status in sweep.statuses)
        return code or (FAILED if failed else 0)
    finally:
        os.close(lock)


def _tell_results(folder: Path, statuses: Sequence[Status], title: str) -> None:
    """Writes the results and says where they are, and what is missing."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    summaries = sweeps.write_results(folder, statuses)
    console.print(_summary_table(summaries, statuses))
    for status in statuses:
        if status.state == "failed":
            console.print(
                f"{status.job.path.name} failed: {status.message}\n"
                f"  its output is in {status.job.path / 'console.log'}",
                markup=False,
                soft_wrap=True,
            )
    print(f"results in {folder}/results.csv, summary.csv", end="")
    try:
        print(f", {plot_variants(folder, statuses, title).name}")
    except (ValueError, ModuleNotFoundError) as error:
        print(f"\nno figure: {error}")
    if any(status.state == "stopped" for status in statuses):
        print("stopped and saved; the same command goes on")


def _summary_table(summaries: Sequence[Summary], statuses: Sequence[Status]) -> Table:
    """Returns a row for each variant, the best first."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("variant", overflow="fold")
    for name in ("runs", "mean return", "95% interval", "evaluation", "95% interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in summaries:
        runs = sum(status.job.variant == s.variant for status in statuses)
        table.add_row(
            s.variant,
            f"{s.runs} of {runs}",
            number_text(s.mean_return),
            _interval_text(s.low, s.high),
            number_text(s.evaluation),
            _interval_text(s.evaluation_low, s.evaluation_high),
        )
    return table


def _interval_text(low: float, high: float) -> str:
    return "" if low != low else f"{number_text(low)} to {number_text(high)}"

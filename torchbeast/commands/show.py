"""`torchbeast list` and `torchbeast plot`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

from torchbeast import envs, presets
from torchbeast.algorithms import ALGORITHMS
from torchbeast.commands.errors import UsageError, nearest
from torchbeast.commands.flags import parse
from torchbeast.nets import NETWORKS
from torchbeast.runners.config import RunConfig
from torchbeast.tools import run_directory
from torchbeast.tools.plot import plot_curves


@dataclasses.dataclass(frozen=True)
class PlotFlags:
    """Where the figure goes."""

    output: str = ""
    """The PNG; by default curve.png in the directory of the (first) run."""
    savedir: str = RunConfig().output.savedir
    """Folder of all runs."""


@dataclasses.dataclass(frozen=True)
class ListFlags:
    """Where runs are."""

    savedir: str = RunConfig().output.savedir
    """Folder of all runs."""


def list_(arguments: Sequence[str]) -> int:
    """Returns 0 after ``torchbeast list [WHAT]`` printed it."""
    what, *rest = arguments or [""]
    flags = parse(ListFlags(), f"torchbeast list {what}", rest)
    listings: dict[str, Callable[[], None]] = {
        "environments": _environments,
        "algorithms": _algorithms,
        "presets": _presets,
        "networks": _networks,
        "runs": lambda: _runs(flags.savedir),
    }
    if not what:
        for name in ("algorithms", "networks", "presets"):
            print(f"{name}:")
            listings[name]()
        print("also: torchbeast list environments, torchbeast list runs")
    elif what not in listings:
        raise UsageError(
            f"expected one of {', '.join(listings)}, got '{what}'; "
            f"did you mean {nearest(what, listings)}?"
        )
    else:
        listings[what]()
    return 0


def plot(arguments: Sequence[str]) -> int:
    """Returns 0 after ``torchbeast plot RUN [RUN ...] [flags]`` drew their curves."""
    names = []
    rest = list(arguments)
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    if not names:
        raise UsageError("expected `torchbeast plot RUN [RUN ...]`")
    flags = parse(PlotFlags(), "torchbeast plot", rest)
    try:
        runs = [run_directory.find_run(flags.savedir, name) for name in names]
        target = Path(flags.output) if flags.output else runs[0] / "curve.png"
        plot_curves(runs, target)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    print(f"figure in {target}")
    return 0


def _environments() -> None:
    for group, ids in envs.groups().items():
        print(f"{group}:")
        print("\n".join(f"  {name}" for name in ids))


def _algorithms() -> None:
    for name, algorithm in ALGORITHMS.items():
        page = inspect.getmodule(algorithm)
        print(f"  {name:24} {(inspect.getdoc(page) or '').splitlines()[0]}")
    print("  path/to/file.py:Class    your own (docs/own_code.md)")


def _presets() -> None:
    functions = {k: v for algorithm in ALGORITHMS for k, v in presets.of(algorithm).items()}
    for name, function in functions.items():
        print(f"  {name:24} {(inspect.getdoc(function) or '').splitlines()[0]}")


def _networks() -> None:
    described = {
        "auto": "the one that fits the observations",
        "shallow": "3 convolutions and 512 units, for images of 36x36 and more",
        "deep": "IMPALA's residual network, 15 convolutions and 256 units",
        "drq": "4 convolutions, for images of 16x16 and more that critics judge by",
        "small": "1 convolution and 128 units, for images like MinAtar's 10x10",
        "mlp": "fully connected layers of --hidden_sizes",
    }
    for name in NETWORKS:
        print(f"  {name:24} {described[name]}; --use_lstm adds memory")
    print("  path/to/file.py:Class    your own (docs/own_code.md)")


def _runs(savedir: str) -> None:
    for path in run_directory.list_runs(savedir):
        meta = run_directory.read_meta(path)
        ended = f"stopped {meta['date_end']}" if meta.get("date_end") else "has not ended"
        state = "finished" if meta.get("successful") else ended
        print(f"  {path.name:32} {meta.get('date_start', '?')}  {state}")

"""Learning curves: the returns of full games over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchbeast.tools.logs import Curve, read_curve

_WINDOW = 100  # episodes per mean, as on the screen
_POINTS = 200  # of a curve over several runs
_RESAMPLES = 2000
# Okabe and Ito's colours, which differ for all eyes; line styles go on where they end.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333")
_STYLES = ("-", "--", ":", "-.")

Array = np.ndarray[Any, Any]


def plot_curves(
    run_dirs: Sequence[Path | str],
    out_png: Path | str,
    title: str | None = None,
    window: int = _WINDOW,
) -> Path:
    """Returns the picture written: return over steps of one run, or the mean of several.

    Lines are means of the last ``window`` games.

    One run shows its games as dots. Several (seeds of one experiment) show each run thin, their
    mean thick, and around it the interval that holds 95% of bootstrap means over the runs.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no run is given, or one has no finished games.
    """
    figure_class = _figure_class()
    if not run_dirs:
        raise ValueError("expected at least one run, got none; name a run, or 'latest'")
    runs = [Path(run) for run in run_dirs]
    curves = [read_curve(run) for run in runs]
    figure = figure_class(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if len(curves) == 1:
        _draw_one(axes, curves[0], window)
        title = title or runs[0].name
    else:
        _draw_several(axes, curves, window)
        title = title or f"{len(curves)} runs"
    _dress(axes, title)
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out


def plot_groups(
    groups: Mapping[str, Sequence[Path | str]],
    out_png: Path | str,
    title: str,
    window: int = _WINDOW,
) -> Path:
    """Returns the picture written: a line for each group of runs, by name.

    A line is the mean over the runs of a group, of the last ``window`` games of each; around it is
    the interval that holds 95% of bootstrap means over the runs.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: there is no run, or one has no finished games.
    """
    figure_class = _figure_class()
    if not groups:
        raise ValueError("expected at least one run with finished games, got none")
    figure = figure_class(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, runs) in enumerate(groups.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
        grid, values = on_grid([read_curve(Path(run)) for run in runs], window=window)
        if len(values) > 1:
            low, high = bootstrap_interval(values)
            axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(grid, values.mean(0), style, color=colour, linewidth=2, label=name)
    axes.set_ylabel(f"return per game (mean of {window})")
    axes.legend(frameon=False, fontsize="small")
    _dress(axes, title)
    out = Path(out_png)
    figure.savefig(out)
    return out


def running_mean(curve: Curve, window: int = _WINDOW) -> Array:
    """Returns the mean of the last ``window`` returns at each game [N]; of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(curve.returns)])
    end = np.arange(1, len(curve.returns) + 1)
    start = np.maximum(end - window, 0)
    return (sums[end] - sums[start]) / (end - start)


def on_grid(
    curves: Sequence[Curve], points: int = _POINTS, window: int = _WINDOW
) -> tuple[Array, Array]:
    """Returns steps [P] and the running means of each run there [runs, P].

    The grid is where all runs have been: no run is drawn further than it went.
    """
    start = max(int(curve.steps[0]) for curve in curves)
    end = min(int(curve.steps[-1]) for curve in curves)
    if end < start:
        raise ValueError(
            f"expected runs over the same steps, got one that ends at {end} and one whose first "
            f"game ends at {start}; plot them one by one"
        )
    grid = np.linspace(start, end, points)
    rows = []
    for curve in curves:
        # The last game at or before each point: a mean of games that were over by then.
        index = np.searchsorted(curve.steps, grid, side="right") - 1
        rows.append(running_mean(curve, window)[index])
    return grid, np.stack(rows)


def bootstrap_interval(
    values: Array, resamples: int = _RESAMPLES, level: float = 0.95, seed: int = 0
) -> tuple[Array, Array]:
    """Returns the lower and upper bound [P] of the mean over runs of ``values`` [runs, P]."""
    generator = np.random.default_rng(seed)
    count = len(values)
    # How often each run is drawn in each resample: one product takes the place of a gather.
    weights = generator.multinomial(count, np.full(count, 1 / count), size=resamples) / count
    tail = (1 - level) / 2
    low, high = np.quantile(weights @ values, [tail, 1 - tail], axis=0)
    return low, high


def _draw_one(axes: Any, curve: Curve, window: int) -> None:
    axes.plot(curve.steps, curve.returns, ".", color="#9db7d5", markersize=3.5, alpha=0.8, mew=0)
    axes.plot(curve.steps, running_mean(curve, window), color="#1f5fa8", linewidth=2)
    axes.set_ylabel(f"return per game (line: mean of {window})")


def _draw_several(axes: Any, curves: Sequence[Curve], window: int) -> None:
    grid, values = on_grid(curves, window=window)
    low, high = bootstrap_interval(values)
    axes.fill_between(
        grid, low, high, color="#1f5fa8", alpha=0.2, linewidth=0, label="95% interval"
    )
    for row in values:
        axes.plot(grid, row, color="#9db7d5", linewidth=0.8)
    axes.plot(grid, values.mean(0), color="#1f5fa8", linewidth=2, label="mean")
    axes.set_ylabel(f"return per game (mean of {window})")
    axes.legend(frameon=False)


def _dress(axes: Any, title: str) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_title(title, loc="left")
    axes.set_xlabel("environment steps")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure  # not pyplot: no window, no global state
    except ImportError as error:
        raise ModuleNotFoundError(
            "expected matplotlib for figures, got none; pip install 'torchbeast[plot]'"
        ) from error
    return Figure

"""Learning curves: a metric by the number of shots or the share of the training rows, with its interval as a band."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featcache.errors import ConfigurationError, MissingDependencyError
from featcache.records import Result

__all__ = ["draw_learning_curve"]

_AXES = {"shots": "images a class", "train_fraction": "share of the training rows"}


def draw_learning_curve(results: Sequence[Result], path: Path, *, metric: str = "auroc") -> Path:
    """Draw one curve a result as a PNG.

    Parameters
    ----------
    results
        Few-shot results, or results of several training fractions; all of one kind.
    path
        The PNG to write; its folder is made.
    metric
        Which of their metrics.

    Raises
    ------
    ConfigurationError
        If a result has no curve or lacks the metric.
    MissingDependencyError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "pictures need matplotlib, which is not installed", remedy="pip install 'featcache[plots]'"
        ) from error
    axis = next((name for name in _AXES if all(name in run.parameters for one in results for run in one.runs)), None)
    if axis is None or not results:
        raise ConfigurationError(
            "there is no curve to draw: the runs differ neither in shots nor in the share of the training rows",
            remedy="Draw results of `probe fewshot`, or of --train-fraction with several values.",
        )
    if any(metric not in run.metrics for one in results for run in one.runs):
        raise ConfigurationError(
            f"a result has no metric {metric!r}", remedy=f"It has: {', '.join(results[0].runs[0].metrics)}."
        )
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for result in results:
        places = [run.parameters[axis] for run in result.runs]
        found = [run.metrics[metric] for run in result.runs]
        (line,) = axes.plot(places, [one.value for one in found], marker="o", label=f"{result.model} {result.probe}")
        axes.fill_between(
            places, [one.low for one in found], [one.high for one in found], color=line.get_color(), alpha=0.2, lw=0
        )
    ticks = sorted({run.parameters[axis] for one in results for run in one.runs})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(_AXES[axis])
    axes.set_ylabel(metric)
    axes.set_title(f"{results[0].dataset}, {results[0].task}")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path

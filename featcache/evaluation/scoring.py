"""Scores to numbers: metrics with intervals, by class and by subgroup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.evaluation.rows import Rows
from featcache.metrics import (
    DEFAULT_METRICS,
    bootstrap_classes,
    bootstrap_many,
    choose_thresholds,
    select_metrics,
)
from featcache.records import Estimate, ProbeRun, Subgroup
from featcache.registry import nearest

__all__ = ["Scoring", "Thresholds", "score_run"]

Thresholds = Literal["half", "f1", "youden"]

_MANY_VALUES = 10
"""A column of numbers with more different values than this is cut into its quarters."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is reported of each run."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Names in :data:`featcache.metrics.METRICS`."""
    n_bootstrap: int = 1000
    """Resamples."""
    interval: Literal["percentile", "bca"] = "percentile"
    """Kind of the 95 % bootstrap interval."""
    seed: int = 0
    """Of the resamples."""
    by: tuple[str, ...] = ()
    """Columns whose values make subgroups."""
    thresholds: Thresholds = "half"
    """Where a label counts as predicted: at 0.5, or where val is best by F1 or by Youden's index."""


def score_run(
    rows: Rows,
    scores: NDArray[np.float64],
    parameters: Mapping[str, Any],
    *,
    split: str,
    classes: Sequence[str],
    scoring: Scoring,
    on_val: tuple[NDArray[Any], NDArray[np.float64]] | None = None,
) -> ProbeRun:
    """Everything that is reported of one setting.

    Parameters
    ----------
    rows
        What was scored.
    scores
        (n, C).
    parameters
        What distinguishes this run.
    split
        Its name.
    classes
        Names of the columns of the scores.
    scoring
        What to report.
    on_val
        Targets and scores of val by a probe that has not seen them; needed unless ``thresholds`` is ``half``.
    """
    thresholds = None
    if scoring.thresholds != "half" and rows.y.ndim == 2:
        if on_val is None:
            raise ProbeError(
                "thresholds are chosen on val, and there is none",
                remedy="Give a val split, or take --thresholds half.",
            )
        thresholds = choose_thresholds(*on_val, scoring.thresholds)
        parameters = {**parameters, "thresholds": [round(float(value), 6) for value in thresholds]}
    metrics = select_metrics(scoring.metrics, thresholds=thresholds)
    options: dict[str, Any] = {"n": scoring.n_bootstrap, "seed": scoring.seed, "method": scoring.interval}
    groups = rows.groups
    per_class = {}
    for name in dict.fromkeys(["auroc", *scoring.metrics]):
        if name in _BY_CLASS and (rows.y.ndim == 2 or len(classes) > 2):
            metric = select_metrics([name], thresholds=thresholds)[name]
            values = bootstrap_classes(metric, rows.y, scores, groups=groups, **options)
            per_class[name] = dict(zip(classes, values, strict=True))
    return ProbeRun(
        parameters=parameters,
        split=split,
        n=len(rows),
        metrics=bootstrap_many(metrics, rows.y, scores, groups=groups, **options),
        scores=scores,
        per_class=per_class,
        subgroups=tuple(_subgroups(rows, scores, metrics, scoring.by, options)),
    )


_BY_CLASS = frozenset({"auroc", "average_precision", "f1", "sensitivity", "sensitivity_at_specificity", "specificity"})
"""Metrics that have a value for each class."""


def _subgroups(
    rows: Rows, scores: NDArray[np.float64], metrics: Mapping[str, Any], by: Sequence[str], options: Mapping[str, Any]
) -> list[Subgroup]:
    found = []
    for column in by:
        if column not in rows.frame:
            raise ConfigurationError(
                f"the samples have no column {column!r}{nearest(column, rows.frame.columns)}",
                remedy=f"Columns: {', '.join(map(str, rows.frame.columns))}; others come with --keep-column.",
            )
        values = _parts(rows.frame[column])
        for value in sorted(values.dropna().unique(), key=str):
            which = np.flatnonzero((values == value).to_numpy())
            part = rows.take(which)
            results = _estimates(part, scores[which], metrics, options)
            found.append(Subgroup(column, str(value), len(part), results))
    return found


def _estimates(
    rows: Rows, scores: NDArray[np.float64], metrics: Mapping[str, Any], options: Mapping[str, Any]
) -> Mapping[str, Estimate]:
    return bootstrap_many(metrics, rows.y, scores, groups=rows.groups, **options)


def _parts(values: pd.Series[Any]) -> pd.Series[Any]:
    """The values themselves; of numbers with many values, the quarter that each is in."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().sum() < values.notna().sum() or numbers.nunique() <= _MANY_VALUES:
        return values
    return pd.qcut(numbers, 4, duplicates="drop").astype(str).where(numbers.notna())

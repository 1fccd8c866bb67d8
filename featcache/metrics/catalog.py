"""The metrics by name, and each as a scorer: prepared once, called for block after block of resamples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError, UnknownNameError
from featcache.metrics import calibration, classification, decisions, ranking
from featcache.metrics.inputs import Floats
from featcache.metrics.weighted import Scorer, Weights
from featcache.registry import nearest

__all__ = ["DEFAULT_METRICS", "METRICS", "PROBABILITY_METRICS", "Metric", "per_class", "scorer", "select_metrics"]

Metric: TypeAlias = Callable[..., Any]
"""``f(y_true, y_score) -> float``, or ``f(y_true, y_score, weights)`` as in this package."""

_SCORERS: Mapping[Metric, Callable[..., Scorer]] = MappingProxyType(
    {
        classification.accuracy: decisions.accuracy_scorer,
        classification.balanced_accuracy: decisions.balanced_accuracy_scorer,
        classification.f1: decisions.f1_scorer,
        classification.mcc: decisions.mcc_scorer,
        classification.sensitivity: decisions.sensitivity_scorer,
        classification.specificity: decisions.specificity_scorer,
        ranking.auroc: ranking.auroc_scorer,
        ranking.average_precision: ranking.average_precision_scorer,
        ranking.sensitivity_at_specificity: ranking.sensitivity_at_specificity_scorer,
        calibration.brier: calibration.brier_scorer,
        calibration.ece: calibration.ece_scorer,
    }
)

_PLAIN: tuple[Metric, ...] = tuple(_SCORERS)
_MICRO: tuple[Metric, ...] = (
    classification.accuracy,
    classification.f1,
    classification.mcc,
    ranking.auroc,
    ranking.average_precision,
    calibration.brier,
    calibration.ece,
)
_WEIGHTED: tuple[Metric, ...] = (classification.f1, ranking.auroc, ranking.average_precision)
_DECIDING: frozenset[Metric] = frozenset(metric for metric in _PLAIN if metric.__module__ == classification.__name__)


def _rows() -> dict[str, Metric]:
    rows: dict[str, Metric] = {metric.__name__: metric for metric in _PLAIN}
    rows |= {f"{metric.__name__}_micro": partial(metric, average="micro") for metric in _MICRO}
    rows |= {f"{metric.__name__}_weighted": partial(metric, average="weighted") for metric in _WEIGHTED}
    return dict(sorted(rows.items()))


METRICS: Mapping[str, Metric] = MappingProxyType(_rows())
"""All metrics by the name users give them; the plain name is the macro form."""

DEFAULT_METRICS: tuple[str, ...] = ("accuracy", "auroc", "balanced_accuracy")
"""What a probe reports when no metric is named; any scores will do for these."""

PROBABILITY_METRICS: frozenset[str] = frozenset({"brier", "brier_micro", "ece", "ece_micro"})
"""The metrics that refuse scores that are no probabilities."""


def select_metrics(names: Iterable[str] = DEFAULT_METRICS, *, thresholds: ArrayLike | None = None) -> dict[str, Metric]:
    """Some metrics by name, with the thresholds of a multi-label task passed to those that take them.

    Parameters
    ----------
    names
        Of :data:`METRICS`; the order is kept.
    thresholds
        (L,) from :func:`choose_thresholds` on val; None leaves them at 0.5.

    Raises
    ------
    UnknownNameError
        If there is no such metric.

    Examples
    --------
    >>> chosen = select_metrics(["auroc", "f1"], thresholds=[0.2])
    >>> chosen["f1"]([[1], [0]], [[0.3], [0.1]])
    1.0
    """
    chosen = {}
    for name in names:
        if name not in METRICS:
            raise UnknownNameError(
                f"unknown metric {name!r}{nearest(name, METRICS)}", remedy=f"Known: {', '.join(METRICS)}."
            )
        metric = METRICS[name]
        deciding = (metric.func if isinstance(metric, partial) else metric) in _DECIDING
        chosen[name] = partial(metric, thresholds=thresholds) if deciding and thresholds is not None else metric
    return chosen


def per_class(
    metric: Metric, y_true: ArrayLike, y_score: ArrayLike, weights: ArrayLike | None = None, **options: Any
) -> Floats:
    """The value of each class against the rest, or of each label, before any averaging.

    Parameters
    ----------
    metric
        A metric of this package.
    y_true, y_score, weights
        As the metric takes them.
    **options
        Of the metric, such as ``thresholds``.

    Returns
    -------
    (C,) float64, or (C, B) with weights
        NaN for a class or label that is undefined. Of two classes, both.

    Raises
    ------
    ProbeError
        As the metric, or if it has no value for each class.

    Examples
    --------
    >>> from featcache.metrics import auroc
    >>> per_class(auroc, [[0, 1], [1, 1], [1, 1]], [[0.1, 0.3], [0.2, 0.2], [0.1, 0.9]])
    array([0.75,  nan])
    """
    scored = scorer(partial(metric, **options), np.asarray(y_true), np.asarray(y_score), classes=True)
    values = scored(Weights.of(weights, len(np.asarray(y_true))))
    return values[:, 0] if weights is None else values


def scorer(metric: Metric, truth: NDArray[Any], score: NDArray[Any], *, classes: bool = False) -> Scorer:
    """A metric with its arrays fixed.

    A metric of this package is prepared once, also inside ``functools.partial``. Another one with a parameter
    ``weights`` is called once a block; any other once a resample, with the repeated rows.

    Raises
    ------
    ProbeError
        If the arrays are refused, or ``classes`` are asked of a metric that is not of this package.
    """
    options: dict[str, Any] = {}
    bare = metric
    while isinstance(bare, partial) and not bare.args:
        options = {**bare.keywords, **options}
        bare = bare.func
    if bare in _SCORERS:
        return _SCORERS[bare](truth, score, **{**options, **({"average": "none"} if classes else {})})
    if classes:
        raise ProbeError(
            f"{getattr(bare, '__name__', bare)!r} has no value for each class",
            remedy=f"Choose from: {', '.join(one.__name__ for one in _PLAIN)}.",
        )
    if "weights" in inspect.signature(metric).parameters:
        return lambda w: np.asarray(metric(truth, score, weights=w.floats.T), dtype=np.float64)
    return lambda w: np.array([_repeated(metric, truth, score, column) for column in w.columns.T], dtype=np.float64)


def _repeated(metric: Metric, truth: NDArray[Any], score: NDArray[Any], multiplicity: NDArray[Any]) -> float:
    index = np.repeat(np.arange(len(truth)), multiplicity.astype(np.int64))
    return float(metric(truth[index], score[index]))

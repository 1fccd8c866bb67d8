"""Two results of ``probe segment`` on the volumes that both scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ResultError
from featcache.metrics import SEGMENTATION_METRICS, adjust, compare_volumes
from featcache.records import ProbeRun, Result

if TYPE_CHECKING:
    from featcache.metrics import Comparison

__all__ = ["compare_volume_runs"]

_FEW = 10
"""Groups below which a reader is warned of the bootstrap."""


def compare_volume_runs(
    results: tuple[Result, Result],
    runs: tuple[ProbeRun, ProbeRun],
    metrics: Sequence[str],
    *,
    n_bootstrap: int,
    seed: int,
) -> tuple[tuple[Comparison, ...], tuple[tuple[str, Comparison], ...], int, list[str]]:
    """The paired bootstrap over patients of the scores of each volume (or picture).

    Parameters
    ----------
    results, runs
        Both of the probe ``segment``, and a run of each.
    metrics
        Of :data:`featcache.metrics.SEGMENTATION_METRICS`.
    n_bootstrap, seed
        Of the resamples.

    Returns
    -------
    metrics
        One comparison each of the mean over classes, adjusted by Holm.
    labels
        Class and comparison of the first metric, adjusted by Holm.
    n_volumes
        That both scored.
    notes
        What a reader must know.

    Raises
    ------
    ResultError
        If a metric is unknown, a run keeps no scores of single volumes, or there is no volume in common.
    """
    unknown = [name for name in metrics if name not in SEGMENTATION_METRICS]
    if unknown:
        raise ResultError(
            f"segmentation has no metric {unknown[0]!r}", remedy=f"Choose from: {', '.join(SEGMENTATION_METRICS)}."
        )
    places = [_places(result, run) for result, run in zip(results, runs, strict=True)]
    common = [name for name in places[0] if name in places[1]]
    if not common:
        raise ResultError("the two results have no volume in common", remedy="Score the same split.")
    groups = _patients(results[0], common)
    classes = results[0].classes[1:]
    found: list[Comparison] = []
    labels: list[tuple[str, Comparison]] = []
    notes: list[str] = []
    for metric in metrics:
        one, two = (_table(run, place, common, metric, classes) for run, place in zip(runs, places, strict=True))
        odd = int((np.isnan(one) != np.isnan(two)).sum())
        if odd:
            notes.append(
                f"{metric} of {odd} volumes and classes is defined for one result only (the other predicts nothing "
                "where nothing is): each mean is over its own defined ones."
            )
        mean, of_classes = compare_volumes(one, two, groups, metric=metric, n=n_bootstrap, seed=seed)
        found.append(mean)
        labels = labels or list(zip(classes, adjust(of_classes), strict=True))
    if groups is None:
        notes.append("No patient ids: the tests take every volume as independent.")
    if found[0].n_groups < _FEW:
        notes.append(f"Only {found[0].n_groups} patients or volumes: bootstrap intervals of so few are too narrow.")
    left_out = len(places[0]) + len(places[1]) - 2 * len(common)
    if left_out:
        notes.append(f"{left_out} volumes that only one of the two scored are left out.")
    return adjust(found), tuple(labels), len(common), notes


def _places(result: Result, run: ProbeRun) -> dict[str, int]:
    """Volume to its place among the run's subgroups."""
    places = {part.value: place for place, part in enumerate(run.subgroups) if part.column in ("volume", "picture")}
    if not places:
        what = "it is a mean over draws" if "tries" in run.parameters else "the study's protocol pools its pixels"
        raise ResultError(
            f"{result.id} keeps no score of each volume: {what}",
            remedy="Compare results of the protocol native with one try.",
        )
    return places


def _patients(result: Result, volumes: Sequence[str]) -> NDArray[np.int64] | None:
    if result.groups is None:
        return None
    of = dict(zip(result.ids, result.groups.tolist(), strict=True))
    return np.array([of[name] for name in volumes], np.int64)


def _table(
    run: ProbeRun, places: dict[str, int], volumes: Sequence[str], metric: str, classes: Sequence[str]
) -> NDArray[np.float64]:
    """(n_volumes, C) scores of the foreground classes."""
    names = [metric] if len(classes) == 1 else [f"{metric} {label}" for label in classes]
    return np.array(
        [[run.subgroups[places[volume]].metrics[name].value for name in names] for volume in volumes], np.float64
    )

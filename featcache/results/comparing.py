"""``compare_results``: is one result better than another on the same samples?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ResultError
from featcache.metrics import Comparison, adjust, compare_many, delong, select_metrics
from featcache.records import ProbeRun, Result
from featcache.results.comparing_volumes import compare_volume_runs

__all__ = ["ResultComparison", "compare_results"]


@dataclass(frozen=True, slots=True)
class ResultComparison:
    """Two results on the samples that both scored."""

    first: str
    """What the first one is, in words."""
    second: str
    """What the second one is."""
    task: str
    """The task of both."""
    n_rows: int
    """Samples that both scored."""
    metrics: tuple[Comparison, ...]
    """One for each metric, by the paired bootstrap over patients, adjusted by Holm."""
    labels: tuple[tuple[str, Comparison], ...]
    """Class or label and its AUROC, by DeLong's test (clustered by patient), adjusted by Holm; of segmentations each
    class's first metric, by the paired bootstrap."""
    notes: tuple[str, ...]
    """What a reader must know."""


def compare_results(
    first: Result,
    second: Result,
    *,
    metrics: Sequence[str] | None = None,
    run: tuple[int, int] = (0, 0),
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> ResultComparison:
    """Test the differences of two results on the samples that both scored.

    Parameters
    ----------
    first, second
        Results of the same dataset, task and split, maybe of different models, features or probes.
    metrics
        Names of :data:`featcache.metrics.METRICS`; default AUROC and balanced accuracy. Of results of ``segment``:
        ``dice`` (default), ``iou``, ``hd95``, ``surface_dice``, each the mean over volumes, paired volume by volume.
    run
        Which run of each: with several k, the place of one.
    n_bootstrap
        Resamples of patients.
    seed
        Of the resamples.

    Raises
    ------
    ResultError
        If they answer different questions, share no samples, or disagree about a sample's label.

    References
    ----------
    Paired bootstrap: Efron and Tibshirani (1993); DeLong et al., Biometrics 44 (1988), for clustered data Obuchowski,
    Biometrics 53 (1997); Holm, Scand. J. Statist. 6 (1979).
    """
    if (first.dataset, first.task, first.classes) != (second.dataset, second.task, second.classes):
        raise ResultError(
            f"{first.id} answers task {first.task!r} of {first.dataset}, {second.id} task {second.task!r} of "
            f"{second.dataset}: they cannot be compared",
            remedy="Compare results of one dataset and task, with the same labels.",
        )
    if first.probe == second.probe == "segment":
        return _segmentations((first, second), metrics or ("dice",), run, n_bootstrap, seed)
    (one, scores_one), (two, scores_two) = _run(first, run[0]), _run(second, run[1])
    rows_one, rows_two = _common(first.ids, second.ids)
    if not len(rows_one):
        raise ResultError("the two results have no sample in common", remedy="Score the same split.")
    truth = first.targets[rows_one]
    if not np.array_equal(truth, second.targets[rows_two], equal_nan=truth.dtype.kind == "f"):
        raise ResultError(
            "the labels of some samples differ between the two results", remedy="Run both probes again with --fresh."
        )
    groups = None if first.groups is None else first.groups[rows_one]
    scores = (scores_one[rows_one], scores_two[rows_two])
    chosen = select_metrics(metrics or ("auroc", "balanced_accuracy"))
    found = compare_many(chosen, truth, *scores, groups=groups, n=n_bootstrap, seed=seed)
    notes = [] if groups is not None else ["No patient ids: the tests take every sample as independent."]
    left_out = len(first.ids) + len(second.ids) - 2 * len(rows_one)
    if left_out:
        notes.append(f"{left_out} samples that only one of the two scored are left out.")
    return ResultComparison(
        first=describe(first, one),
        second=describe(second, two),
        task=first.task,
        n_rows=len(rows_one),
        metrics=adjust(found.values()),
        labels=_by_label(first.classes, truth, scores, groups),
        notes=tuple(notes),
    )


def describe(result: Result, run: ProbeRun) -> str:
    """A result in a few words: model, probe and what distinguishes the run."""
    settings = ", ".join(
        f"{name} {value:g}" for name, value in run.parameters.items() if isinstance(value, int | float)
    )
    return f"{result.model} {result.probe}" + (f" ({settings})" if settings else "")


def _segmentations(
    results: tuple[Result, Result], metrics: Sequence[str], places: tuple[int, int], n_bootstrap: int, seed: int
) -> ResultComparison:
    if any(result.config["split"] != results[0].config["split"] for result in results):
        raise ResultError("the two results score different splits", remedy="Score the same split.")
    runs = (_numbered(results[0], places[0]), _numbered(results[1], places[1]))
    found, labels, count, notes = compare_volume_runs(results, runs, metrics, n_bootstrap=n_bootstrap, seed=seed)
    return ResultComparison(
        first=describe(results[0], runs[0]),
        second=describe(results[1], runs[1]),
        task=results[0].task,
        n_rows=count,
        metrics=found,
        labels=labels if len(labels) > 1 else (),
        notes=tuple(notes),
    )


def _numbered(result: Result, place: int) -> ProbeRun:
    if not 0 <= place < len(result.runs):
        raise ResultError(f"{result.id} has {len(result.runs)} runs, not one of number {place}")
    return result.runs[place]


def _run(result: Result, place: int) -> tuple[ProbeRun, NDArray[np.float64]]:
    """A run and the score of each of its samples."""
    run = _numbered(result, place)
    if run.scores is None:
        what = "it scores volumes" if result.probe == "segment" else "it is a mean over episodes"
        raise ResultError(
            f"{result.id} keeps no score of each sample: {what}",
            remedy="Compare probes that score every sample once.",
        )
    return run, run.scores


def _common(first: Sequence[str], second: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    place = {name: row for row, name in enumerate(second)}
    pairs = [(row, place[name]) for row, name in enumerate(first) if name in place]
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _by_label(
    classes: Sequence[str],
    truth: NDArray[np.float64],
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    groups: NDArray[np.int64] | None,
) -> tuple[tuple[str, Comparison], ...]:
    """DeLong's test of each label, or of each class against the rest (of two classes, of the second)."""
    if truth.ndim == 2:
        targets = [truth[:, place] for place in range(truth.shape[1])]
    else:
        targets = [np.where(truth == place, 1.0, 0.0) for place in range(len(classes))]
    places = [1] if truth.ndim == 1 and len(classes) == 2 else range(len(classes))
    tested = [
        (classes[place], delong(targets[place], scores[0][:, place], scores[1][:, place], groups))
        for place in places
        if len(np.unique(targets[place][~np.isnan(targets[place])])) == 2
    ]
    return tuple(zip([name for name, _ in tested], adjust([found for _, found in tested]), strict=True))

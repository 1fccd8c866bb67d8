"""Training sets of one size, drawn once or several times: a run each, or the mean over the draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featcache.evaluation.segmentation.fitting import FittingJob
from featcache.evaluation.segmentation.heads import Segmenter
from featcache.evaluation.segmentation.native_scores import SegmentationScores
from featcache.evaluation.segmentation.predictions import NativePredictions
from featcache.evaluation.segmentation.rows import SegmentRows, Shots, draw_shots, training_classes
from featcache.probes.curves import mean_interval
from featcache.records import ProbeRun, Subgroup
from featcache.store import Masks

__all__ = ["Scorer", "TriedRuns", "mean_of_tries", "run_tries"]

Scorer = Callable[[Segmenter, Mapping[str, Any]], tuple[ProbeRun, NativePredictions, SegmentationScores | None]]
"""Scores a fitted head; what distinguishes its run is given."""


@dataclass(slots=True)
class TriedRuns:
    """What :func:`run_tries` found."""

    runs: list[ProbeRun] = field(default_factory=list)
    """One a number of shots."""
    draws: list[dict[str, Any]] = field(default_factory=list)
    """Of each draw: ``shots``, ``seed``, ``ids`` of the images learnt from, ``chosen`` on val."""
    selections: dict[str, Any] = field(default_factory=dict)
    """What was tried on val, with its Dice."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know, each sentence once."""
    predictions: NativePredictions | None = None
    """Of the last head."""
    scores: SegmentationScores | None = None
    """Of the last head; None with the study's protocol."""


def run_tries(
    job: FittingJob,
    masks: Masks,
    parts: Mapping[str, SegmentRows],
    shots: Sequence[Shots],
    score: Scorer,
    *,
    head_name: str,
    seed: int,
    n_tries: int,
    again: bool,
) -> TriedRuns:
    """Fit and score a head for each training set.

    Parameters
    ----------
    job, masks, parts
        Tokens, targets and the splits' rows, with ``train`` and ``val``.
    shots
        Sizes of training sets; none for all of train.
    score
        Of a fitted head.
    head_name
        For the runs' parameters.
    seed, n_tries
        Draws have the seeds ``seed``, ``seed + 1`` …
    again
        Fit anew on train + val (never with shots).
    """
    found = TriedRuns()
    for size in shots or (None,):
        about = {"head": head_name} | ({} if size is None else {"shots": size.count})
        tries: list[tuple[int, ProbeRun]] = []
        for draw in range(seed, seed + n_tries):
            name = "all" if size is None else str(size.count)
            name = name if n_tries == 1 else f"{name}, seed {draw}"
            train = parts["train"] if size is None else draw_shots(parts["train"], size, draw)
            found.notes += training_classes(masks, train, "" if size is None else f"{name} shots: ")
            head = job.fit(train, parts["val"], again=again and size is None)
            found.selections[name] = head.selection_
            found.notes += getattr(head, "notes_", ())
            run, found.predictions, found.scores = score(head, about | (head.chosen_ if n_tries == 1 else {}))
            found.notes += () if found.scores is None else found.scores.notes
            tries.append((draw, run))
            if size is not None:
                drawn = {"shots": size.count, "seed": draw, "ids": list(train.ids), "chosen": dict(head.chosen_)}
                found.draws.append(drawn)
        found.runs.append(tries[0][1] if n_tries == 1 else mean_of_tries(about, tries))
    if n_tries > 1:
        found.notes.append(f"Intervals are t intervals of the mean over {n_tries} draws of the training set.")
    found.notes = list(dict.fromkeys(found.notes))
    return found


def mean_of_tries(parameters: Mapping[str, Any], tries: Sequence[tuple[int, ProbeRun]]) -> ProbeRun:
    """One run for several draws.

    Parameters
    ----------
    parameters
        What distinguishes the run.
    tries
        Seed of the draw and the run that learned from it, all on the same samples.

    Returns
    -------
    ProbeRun
        Means and t intervals over the draws; each draw is a subgroup ``try`` with its own values and intervals.
    """
    runs = [run for _, run in tries]
    first = runs[0]
    ends = {name: (0.0, np.inf if name == "hd95" else 1.0) for name in first.metrics}  # millimetres, and shares
    metrics = {
        name: mean_interval([run.metrics[name].value for run in runs], within=ends[name]) for name in first.metrics
    }
    classes = {
        name: {
            label: mean_interval([run.per_class[name][label].value for run in runs], within=ends[name])
            for label in found
        }
        for name, found in first.per_class.items()
    }
    parts = tuple(Subgroup("try", f"seed {seed}", run.n, run.metrics) for seed, run in tries)
    return ProbeRun({**parameters, "tries": len(runs)}, first.split, first.n, metrics, None, classes, parts)

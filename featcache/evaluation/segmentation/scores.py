"""Runs of ``probe segment``: scores of volumes with intervals over patients, or the study's pooled Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.evaluation.segmentation.heads import Segmenter
from featcache.evaluation.segmentation.native_scores import SegmentationScores, score_predictions
from featcache.evaluation.segmentation.rows import SegmentRows
from featcache.metrics.over_volumes import mean_over_volumes, pooled_estimate
from featcache.metrics.segmentation import overlap_counts
from featcache.probes.segmentation.selection import class_maps
from featcache.probes.segmentation.token_stream import TokenStream
from featcache.records import Estimate, ProbeRun, Subgroup
from featcache.store import Masks

__all__ = ["native_run", "study_run"]


def native_run(
    parameters: Mapping[str, Any],
    split: str,
    masks: Masks,
    predictions: Mapping[str, NDArray[np.uint8]],
    rows: SegmentRows,
    *,
    tolerance: float,
    n: int,
    seed: int,
) -> tuple[ProbeRun, SegmentationScores]:
    """Scores in native geometry: means over volumes, of each class, and of each volume as a subgroup.

    Parameters
    ----------
    parameters
        What distinguishes the run.
    split
        Its name.
    masks, predictions
        Truth and prediction by sample id.
    rows
        The samples.
    tolerance
        Of surface Dice, in mm.
    n, seed
        Of the bootstrap.
    """
    scores = score_predictions(masks, predictions, ids=rows.ids, volumes=rows.volumes, tolerance=tolerance)
    patients = rows.patients()
    groups = None if patients is None else _codes([patients[unit.members[0]] for unit in scores.units])
    metrics: dict[str, Estimate] = {}
    per_class: dict[str, dict[str, Estimate]] = {}
    for name, values in scores.values.items():
        metrics[name], classes = mean_over_volumes(values, groups, n=n, seed=seed)
        per_class[name] = dict(zip(masks.class_names[1:], classes, strict=True))
    parts = []
    for place, unit in enumerate(scores.units):
        column = "volume" if len(unit.members) > 1 or unit.step is not None else "picture"
        found = {name: _single(_mean(values[place])) for name, values in scores.values.items()}
        if len(masks.class_names) > 2:
            for name, values in scores.values.items():
                pairs = zip(masks.class_names[1:], values[place].tolist(), strict=True)
                found |= {f"{name} {label}": _single(value) for label, value in pairs}
        parts.append(Subgroup(column, unit.name, len(unit.members), found))
    return ProbeRun(parameters, split, len(scores.units), metrics, None, per_class, tuple(parts)), scores


def study_run(
    parameters: Mapping[str, Any],
    split: str,
    head: Segmenter,
    stream: TokenStream,
    rows: SegmentRows,
    *,
    class_names: Sequence[str],
    n: int,
    seed: int,
) -> ProbeRun:
    """The study's Dice: pixels pooled over the split and the foreground classes at S x S.

    Parameters
    ----------
    parameters, split
        Of the run.
    head
        Fitted.
    stream
        Tokens and targets of the rows, in their order.
    rows
        The samples.
    class_names
        The background first.
    n, seed
        Of the bootstrap over patients.
    """
    found = []
    for batch in stream.batches(4):
        maps = class_maps(head.logits(batch.tokens.astype(np.float32)), stream.size)
        found += [overlap_counts(one, two, len(class_names)) for one, two in zip(batch.labels, maps, strict=True)]
    counts = np.stack(found)
    patients = rows.patients()
    groups = None if patients is None else _codes([patients[name] for name in rows.ids])
    classes = {
        label: pooled_estimate(counts[:, [0, place]], groups, n=n, seed=seed)
        for place, label in enumerate(class_names)
        if place
    }
    metrics = {"pooled_dice": pooled_estimate(counts, groups, n=n, seed=seed)}
    return ProbeRun(parameters, split, len(rows), metrics, None, {"pooled_dice": classes})


def _codes(names: Sequence[str]) -> NDArray[np.int64]:
    return pd.factorize(np.asarray(names, dtype=object))[0].astype(np.int64)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _single(value: float) -> Estimate:
    """One volume has a value and no interval."""
    return Estimate(value, float("nan"), float("nan"))

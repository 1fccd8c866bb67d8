"""``segment``: fit a head on a store's patch tokens and score it in the native geometry of the masks."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.evaluation.native import Border
from featcache.evaluation.native_scores import SegmentationScores
from featcache.evaluation.segment_fitting import FittingJob
from featcache.evaluation.segment_heads import HeadSettings, uses_layers
from featcache.evaluation.segment_predictions import NativePredictions
from featcache.evaluation.segment_rows import (
    SegmentRows,
    Shots,
    draw_shots,
    refuse_cropped,
    segmentation_task,
    select_segment_rows,
    straddling_notes,
    training_classes,
    unmasked_notes,
)
from featcache.evaluation.segment_scores import native_run, study_run
from featcache.evaluation.segment_tokens import chosen_tokens
from featcache.metrics.segmentation import DEFAULT_TOLERANCE
from featcache.records import ProbeRun, Result
from featcache.results import Ledger, fingerprint
from featcache.store import FeatureStore, Masks, open_masks

__all__ = ["SegmentationOutcome", "segment"]

SEGMENTING_VERSION = 1
"""Semantic version of what this module computes, part of a result's fingerprint."""

Protocol = Literal["native", "study"]


@dataclass(frozen=True, slots=True)
class SegmentationOutcome:
    """What :func:`segment` found."""

    result: Result
    """One run for each number of shots, as the ledger has it; subgroups of a run are its volumes or pictures."""
    masks: Masks
    """The targets."""
    predictions: Mapping[str, NDArray[np.uint8]] | None
    """Of the last run, computed when asked for; None for a result from the ledger."""
    scores: SegmentationScores | None
    """Of the last run; None from the ledger and with the protocol ``study``."""


def segment(
    store: FeatureStore | Path | str,
    settings: HeadSettings | None = None,
    *,
    task: str | None = None,
    split: str = "test",
    shots: Sequence[int] = (),
    by_volume: bool = False,
    shot_protocol: Literal["random", "study"] = "random",
    protocol: Protocol = "native",
    border: Border = "refuse",
    tolerance: float = DEFAULT_TOLERANCE,
    n_bootstrap: int = 1000,
    memory: int = 1 << 30,
    allow_patient_overlap: bool = False,
    fresh: bool = False,
    record: bool = True,
) -> SegmentationOutcome:
    """Fit a head on train, choose on val, fit it anew on train + val and score a split once.

    With ``shots`` the training set is a few images or volumes of train; val still chooses, and nothing is fitted anew.

    Parameters
    ----------
    store
        A store with patch tokens, or its path; the masks lie in its home.
    settings
        The head; default ``linear``.
    task
        Which segmentation task; default the only one.
    split
        The split to score.
    shots, by_volume, shot_protocol
        Sizes of few-shot training sets in images, or in volumes with all of their slices; drawn with the seed and
        nested, or evenly spaced as the study does.
    protocol
        ``native``: per volume and class in the masks' own geometry. ``study``: Dice pooled over the split at S x S.
    border
        What a crop cut off: refused, or counted as ``background``.
    tolerance
        Of surface Dice, in mm.
    n_bootstrap
        Resamples of patients (of volumes where no patient is known).
    memory
        Bytes of tokens and targets that stay in memory between epochs.
    allow_patient_overlap
        Score although a patient is on both sides; the result says so.
    fresh
        Compute, although the ledger has this result.
    record
        Write the result to the ledger of the store's home.

    Returns
    -------
    SegmentationOutcome

    Raises
    ------
    ProbeError
        If there are no tokens, no masks in the splits, a volume without a mask in train, no split to choose on …
    StoreNotFoundError
        If the masks were never written.

    Examples
    --------
    >>> outcome = segment("home/msd_spleen/model-3f9a1c2e.zarr", HeadSettings(solver="ridge"))  # doctest: +SKIP
    """
    begin = time.perf_counter()
    settings = settings or HeadSettings()
    opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
    answered = segmentation_task(opened, task)
    if split == "train":
        raise ProbeError("the probe learns from train: scoring it there says nothing", remedy="Score val or test.")
    if protocol not in ("native", "study") or shot_protocol not in ("random", "study"):
        raise ConfigurationError(f"unknown protocol {protocol!r} or {shot_protocol!r}")
    masks = open_masks(opened.path.parent.parent, opened.dataset, task=answered.name)
    settings = replace(settings, tokens=chosen_tokens(opened, settings.tokens, layered=uses_layers(settings)))
    parts = {name: select_segment_rows(opened, masks, answered, name) for name in ("train", "val", split)}
    for name in ("train", split):
        if not len(parts[name]):
            counts = opened.samples["split"].value_counts(dropna=False).to_dict()
            raise ProbeError(
                f"dataset {opened.dataset}: no samples with a mask in split {name!r}",
                remedy=f"Samples by split: {counts}. Choose with --split, or give the data a split.",
            )
    if protocol == "native":
        refuse_cropped(opened, masks, parts[split], border)
    notes = straddling_notes(parts, allow_patient_overlap) + unmasked_notes(opened, parts)
    if split == "val":
        notes.append("Scored on val, on which the head was chosen: the numbers are too good.")
    question = {
        "settings": asdict(replace(settings, device="")),
        "split": split,
        "shots": list(shots),
        "by_volume": by_volume,
        "shot_protocol": shot_protocol,
        "protocol": protocol,
        "border": border,
        "tolerance": tolerance,
        "n_bootstrap": n_bootstrap,
    }
    mark = fingerprint(
        {
            "segmenting": SEGMENTING_VERSION,
            "featcache": importlib.metadata.version("featcache"),
            "question": question,
            "task": asdict(answered),
            "key": opened.key.digest,
            "data": {name: _digest(opened, masks, rows) for name, rows in parts.items()},
            "notes": [*opened.notes, *notes],
        }
    )
    ledger = Ledger.beside(opened.path)
    known = None if fresh else ledger.find("segment", mark)
    if known is not None:
        return SegmentationOutcome(known, masks, None, None)
    job = FittingJob(opened, masks, settings, memory)
    runs: list[ProbeRun] = []
    selections: dict[str, Any] = {}
    predictions: NativePredictions | None = None
    scores: SegmentationScores | None = None
    for count in shots or (None,):
        train = parts["train"]
        if count is not None:
            train = draw_shots(train, Shots(count, by_volume, shot_protocol), settings.seed)
        notes += training_classes(masks, train, "" if count is None else f"{count} shots: ")
        head = job.fit(train, parts["val"], again=count is None and split != "val")
        selections["all" if count is None else str(count)] = head.selection_
        notes += [note for note in getattr(head, "notes_", ()) if note not in notes]
        about = {"head": settings.head} | ({} if count is None else {"shots": count}) | head.chosen_
        scored = parts[split]
        predictions = NativePredictions(head, job.tokens, scored, masks, job.preprocess, border=border)
        if protocol == "study":
            stream = job.stream(scored, keep=False)
            run = study_run(
                about,
                split,
                head,
                stream,
                scored,
                class_names=answered.classes,
                n=n_bootstrap,
                seed=settings.seed,
            )
        else:
            run, scores = native_run(
                about, split, masks, predictions, scored, tolerance=tolerance, n=n_bootstrap, seed=settings.seed
            )
            notes += [note for note in scores.notes if note not in notes]
        runs.append(run)
    names = tuple(part.value for part in runs[-1].subgroups) if protocol == "native" else parts[split].ids
    known_patients = parts[split].patients() is not None
    result = Result(
        probe="segment",
        dataset=opened.dataset,
        model=opened.model,
        key=opened.key.digest,
        task=answered.name,
        classes=answered.classes,
        config={
            "features": settings.tokens,
            "interval": "percentile",
            **{name: value for name, value in question.items() if name != "settings"},
            **asdict(settings),
            "resampled": "patients" if known_patients else "volumes" if protocol == "native" else "images",
            "image_size": job.size,
            "n_train": len(parts["train"]),
            "n_val": len(parts["val"]),
            "selection": selections,
        },
        runs=tuple(runs),
        ids=names,
        targets=np.full(len(names), np.nan),
        groups=None,
        notes=(*opened.notes, *notes),
        seconds=time.perf_counter() - begin,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=mark,
        versions=_versions(),
    )
    return SegmentationOutcome(ledger.record(result) if record else result, masks, predictions, scores)


def _digest(store: FeatureStore, masks: Masks, rows: SegmentRows) -> str:
    """SHA-256 of which samples they are, their tokens' digests, their masks and patients."""
    total = hashlib.sha256(np.ascontiguousarray(store.row_digests[rows.rows]).tobytes())
    total.update("\0".join(rows.ids).encode())
    place = {name: row for row, name in enumerate(masks.ids)}
    which = np.array([place[name] for name in rows.ids], np.int64)
    for name in sorted(masks.rows):
        array = masks.rows[name]
        if name.startswith("digest"):
            total.update(np.ascontiguousarray(array[which]).tobytes())
    patients = rows.patients()
    total.update("\0".join("" if patients is None else patients[name] for name in rows.ids).encode())
    return total.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for package in ("featcache", "numpy", "scipy", "torch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

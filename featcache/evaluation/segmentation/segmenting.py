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
from featcache.evaluation.segmentation.fitting import FittingJob
from featcache.evaluation.segmentation.heads import HeadSettings, Segmenter, uses_layers
from featcache.evaluation.segmentation.native import Border
from featcache.evaluation.segmentation.native_scores import SegmentationScores
from featcache.evaluation.segmentation.predictions import NativePredictions
from featcache.evaluation.segmentation.rows import (
    SegmentRows,
    Shots,
    refuse_cropped,
    segmentation_task,
    select_segment_rows,
    straddling_notes,
    unmasked_notes,
)
from featcache.evaluation.segmentation.scores import native_run, study_run
from featcache.evaluation.segmentation.tokens import chosen_tokens
from featcache.evaluation.segmentation.tries import run_tries
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
    n_tries: int = 1,
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
    n_tries
        Draws of each size, with the seeds ``settings.seed``, ``+ 1`` …; with several the run is their mean, its
        interval a t interval over the draws, and its subgroups are the draws. The head's own seed stays.
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
    if n_tries < 1 or (n_tries > 1 and (not shots or shot_protocol == "study")):
        raise ConfigurationError(
            f"{n_tries} tries need training sets that are drawn at random",
            remedy="Give --shots, without --shot-protocol study; or leave --n-tries out.",
        )
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
        "n_tries": n_tries,
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
    scored = parts[split]

    def score(
        head: Segmenter, about: Mapping[str, Any]
    ) -> tuple[ProbeRun, NativePredictions, SegmentationScores | None]:
        predictions = NativePredictions(head, job.tokens, scored, masks, job.preprocess, border=border)
        common: dict[str, Any] = {"n": n_bootstrap, "seed": settings.seed}
        if protocol == "study":
            stream = job.stream(scored, keep=False)
            run = study_run(about, split, head, stream, scored, class_names=answered.classes, **common)
            return run, predictions, None
        run, scores = native_run(about, split, masks, predictions, scored, tolerance=tolerance, **common)
        return run, predictions, scores

    done = run_tries(
        job,
        masks,
        parts,
        [Shots(count, by_volume, shot_protocol) for count in shots],
        score,
        head_name=settings.head,
        seed=settings.seed,
        n_tries=n_tries,
        again=split != "val",
    )
    names, groups = _units(scored, done.scores)
    resampled = "patients" if groups is not None else "volumes" if protocol == "native" else "images"
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
            "resampled": "draws" if n_tries > 1 else resampled,
            "image_size": job.size,
            "n_train": len(parts["train"]),
            "n_val": len(parts["val"]),
            "selection": done.selections,
        },
        runs=tuple(done.runs),
        ids=names,
        targets=np.full(len(names), np.nan),
        groups=groups,
        notes=(*opened.notes, *notes, *done.notes),
        seconds=time.perf_counter() - begin,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=mark,
        versions=_versions(),
        episodes={"draws": done.draws} if done.draws else None,
    )
    recorded = ledger.record(result) if record else result
    return SegmentationOutcome(recorded, masks, done.predictions, done.scores)


def _units(rows: SegmentRows, scores: SegmentationScores | None) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Names of what was scored, volumes or images, and the number of each one's patient."""
    names = rows.ids if scores is None else tuple(unit.name for unit in scores.units)
    patients = rows.patients()
    if patients is None:
        return names, None
    first = rows.ids if scores is None else [unit.members[0] for unit in scores.units]
    numbers: dict[str, int] = {}
    return names, np.array([numbers.setdefault(patients[name], len(numbers)) for name in first], np.int64)


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

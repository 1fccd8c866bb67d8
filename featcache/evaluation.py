"""Store x task x split x probe -> Result: the one place that joins them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.metrics import bootstrap_many, select_metrics, undefined_classes
from featcache.probes import PROBES
from featcache.records import Estimate, ProbeRun, Result, Task
from featcache.registry import load_dotted
from featcache.store import FeatureStore

__all__ = ["probe"]


@dataclass(frozen=True, slots=True)
class _Part:
    """The labelled rows of one split."""

    X: NDArray[np.float32]
    y: NDArray[Any]
    rows: NDArray[np.int64]


def probe(
    name: str,
    store: FeatureStore | Path | str,
    *,
    task: str | None = None,
    features: str = "cls",
    split: str = "test",
    n_bootstrap: int = 1000,
    seed: int = 0,
    allow_patient_overlap: bool = False,
    **parameters: Any,
) -> Result:
    """Fit a probe on a store's features and score it.

    Parameters
    ----------
    name
        ``knn`` or ``logistic``.
    store
        A store, or its folder.
    task
        Which task; default the only one.
    features
        ``cls``, ``patch_mean``, ``cls+patch_mean``, ``layers:4`` …
    split
        The split to score. ``knn`` learns from train; ``logistic`` chooses C on val and refits on train + val.
    n_bootstrap
        Resamples of the confidence intervals: of patients where they are known, else of rows.
    seed
        Of everything random.
    allow_patient_overlap
        Score although a patient is on both sides; the result says so.
    **parameters
        Of the probe: ``k``, ``temperature``, ``standardize`` for ``knn``; ``C`` for ``logistic``.

    Returns
    -------
    Result
        One run per k, or the one of the chosen C.

    Raises
    ------
    ProbeError
        If the store, task or split cannot answer: no labels, an empty split, a patient on both sides …
    """
    begin = time.perf_counter()
    loader = PROBES[name].loader
    opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
    if not opened.tasks:
        raise ProbeError(
            f"dataset {opened.dataset} has no labels to probe",
            remedy="Name its label column(s) with --label-column and extract again: nothing is recomputed.",
        )
    question = opened.task(task)
    if split == "train":
        raise ProbeError("the probe learns from train: scoring it there says nothing", remedy="Score val or test.")
    if seed < 0:
        raise ConfigurationError(f"seed {seed} is negative")
    parts = {part: _part(opened, question, part, features) for part in ("train", "val", split)}
    _refuse_empty(opened, question, parts, split)
    notes = [*opened.notes, *_overlap_notes(opened, parts, allow_patient_overlap)]
    estimator = _make(name, loader, parameters, seed)
    runs = _fit_and_score(estimator, parts, split, _group_codes(opened, parts["train"].rows), len(question.classes))
    target = parts[split]
    groups = _group_codes(opened, target.rows)
    missing = undefined_classes(target.y, len(question.classes))
    if len(missing):
        listed = ", ".join(question.classes[index] for index in missing)
        notes.append(f"AUROC is undefined in {split} and left out of the macro mean for: {listed}.")
    scored = tuple(
        ProbeRun(
            parameters=settings,
            split=split,
            n=len(target.rows),
            metrics=_metrics(target.y, scores, groups, n_bootstrap, seed),
            scores=scores,
        )
        for settings, scores in runs
    )
    return Result(
        probe=name,
        dataset=opened.dataset,
        model=opened.model,
        key=opened.key.digest,
        task=question.name,
        classes=question.classes,
        config={
            "features": features,
            "seed": seed,
            "n_bootstrap": n_bootstrap,
            "resampled": "rows" if groups is None else "patients",
            "n_train": len(parts["train"].rows),
            "n_val": len(parts["val"].rows),
            **_settings(estimator),
        },
        runs=scored,
        ids=tuple(opened.samples["id"].iloc[target.rows]),
        notes=(*notes, *getattr(estimator, "notes_", ())),
        seconds=time.perf_counter() - begin,
    )


def _part(store: FeatureStore, task: Task, split: str, features: str) -> _Part:
    labels = store.samples[list(task.columns)]
    chosen = (store.samples["split"] == split).fillna(False).to_numpy(dtype=bool)
    rows = np.flatnonzero(chosen & labels.notna().any(axis=1).to_numpy())
    return _Part(store.features(features, rows), _targets(labels.iloc[rows], task), rows)


def _targets(labels: pd.DataFrame, task: Task) -> NDArray[Any]:
    """(n,) class numbers, or (n, L) float64 of 0, 1 and NaN."""
    if task.type == "multilabel":
        return labels.to_numpy(dtype=np.float64, na_value=np.nan)
    if task.type not in ("binary", "multiclass"):
        raise ProbeError(f"task {task.name!r} is of type {task.type}, this probe classifies")
    codes = pd.Categorical(labels[task.columns[0]].astype("str"), categories=list(task.classes)).codes
    return codes.astype(np.int64)


def _refuse_empty(store: FeatureStore, task: Task, parts: Mapping[str, _Part], split: str) -> None:
    for name in ("train", split):
        if len(parts[name].rows) == 0:
            counts = store.samples["split"].value_counts(dropna=False).to_dict()
            raise ProbeError(
                f"dataset {store.dataset}: no rows with a label for task {task.name!r} in split {name!r}",
                remedy=f"Rows by split: {counts or 'none'}. Choose with --split, or give the data a split.",
            )


def _groups(store: FeatureStore) -> pd.Series[str] | None:
    """Patient of every row; None where no patient is known."""
    if "patient" not in store.samples or store.samples["patient"].isna().all():
        return None
    return store.samples["patient"]


def _group_codes(store: FeatureStore, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Patients of some rows as numbers; a row without a patient is a group of its own."""
    patients = _groups(store)
    if patients is None:
        return None
    codes, known = pd.factorize(patients.iloc[rows])
    alone = codes < 0
    codes[alone] = len(known) + np.arange(alone.sum())
    return codes.astype(np.int64)


def _overlap_notes(store: FeatureStore, parts: Mapping[str, _Part], allowed: bool) -> list[str]:
    patients = _groups(store)
    if patients is None:
        if store.split_origin == "within-subject":
            return []
        return ["No patient ids: the intervals resample images, and one patient may be in several splits."]
    members = {name: set(patients.iloc[part.rows].dropna()) for name, part in parts.items()}
    names = sorted(members)
    pairs = [(one, two) for place, one in enumerate(names) for two in names[place + 1 :]]
    shared = sorted(set().union(*(members[one] & members[two] for one, two in pairs)))
    if not shared or store.split_origin == "within-subject":
        return []
    listed = ", ".join(shared[:10]) + (" …" if len(shared) > 10 else "")
    if not allowed:
        raise ProbeError(
            f"{len(shared)} patients are in more than one split: {listed}",
            remedy="Split by patient, or pass --allow-patient-overlap and report it.",
        )
    return [f"{len(shared)} patients are in more than one split: the numbers are too good."]


def _make(name: str, loader: str, parameters: Mapping[str, Any], seed: int) -> Any:
    estimator = load_dotted(loader)
    parameters = {  # one k or one C is a sweep of one
        name: (value,) if name in ("k", "C") and np.ndim(value) == 0 else value for name, value in parameters.items()
    }
    try:
        return estimator(**parameters, **({"seed": seed} if name in ("linear", "logistic") else {}))
    except TypeError as error:
        raise ConfigurationError(f"probe {name!r} does not take these options: {error}") from error


def _settings(estimator: Any) -> dict[str, Any]:
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(estimator).items()
        if not name.endswith("_") and not name.startswith("_")
    }
    if hasattr(estimator, "selection_"):
        settings["selection"] = estimator.selection_
    return settings


def _fit_and_score(
    estimator: Any, parts: Mapping[str, _Part], split: str, groups: NDArray[np.int64] | None, count: int
) -> Sequence[tuple[dict[str, Any], NDArray[np.float64]]]:
    """(settings, (n, C) scores) of each run: one a k, or the one of the C that was chosen."""
    train, val, scored = parts["train"], parts["val"], parts[split]
    if not hasattr(estimator, "C"):
        by_k = estimator.fit(train.X, train.y, n_classes=count).predict_scores(scored.X)
        return [({"k": k}, scores) for k, scores in by_k.items()]
    held_out = () if split == "val" or len(val.rows) == 0 else (val.X, val.y)
    estimator.fit(train.X, train.y, *held_out, groups=groups, n_classes=count)
    return [({"C": estimator.C_}, estimator.predict_scores(scored.X))]


def _metrics(
    y: NDArray[Any], scores: NDArray[np.float64], groups: NDArray[np.int64] | None, n: int, seed: int
) -> Mapping[str, Estimate]:
    return bootstrap_many(select_metrics(), y, scores, groups=groups, n=n, seed=seed)

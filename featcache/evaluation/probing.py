"""``probe``: one question to one store, answered with intervals and remembered."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from featcache.errors import ConfigurationError, ProbeError
from featcache.evaluation.fitting import Request, fit
from featcache.evaluation.rows import Rows, chosen_task, data_digest, fraction_of, select_rows
from featcache.evaluation.scoring import Scoring, Thresholds, score_run
from featcache.evaluation.shots import few_shot_runs, read_episodes
from featcache.evaluation.volumes import (
    CROSS_VALIDATED,
    chosen_folds,
    chosen_pools,
    cross_validate_volumes,
    fit_volumes,
)
from featcache.metrics import DEFAULT_METRICS, undefined_classes
from featcache.probes import PROBES
from featcache.records import ProbeRun, Result, Task
from featcache.results import Ledger, fingerprint
from featcache.store import FeatureStore

__all__ = ["probe"]

EVALUATION_VERSION = 1
"""Semantic version of what this package computes, part of a result's fingerprint: raise it when numbers change."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What decides the numbers, apart from the rows."""

    probe: str
    features: str | None
    split: str
    pool: Any
    where: str | None
    train_fraction: tuple[float, ...]
    seed: int
    parameters: Mapping[str, Any]
    scoring: Scoring


def probe(
    name: str,
    store: FeatureStore | Path | str,
    *,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    features: str | None = None,
    pool: str | Sequence[str] | None = None,
    split: str = "test",
    where: str | None = None,
    train_fraction: float | Sequence[float] = 1.0,
    metrics: Sequence[str] = DEFAULT_METRICS,
    by: Sequence[str] = (),
    thresholds: Thresholds = "half",
    n_bootstrap: int = 1000,
    interval: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
    allow_patient_overlap: bool = False,
    fresh: bool = False,
    record: bool = True,
    **parameters: Any,
) -> Result:
    """Fit a probe on a store's features and score it.

    Parameters
    ----------
    name
        ``knn``, ``mlknn``, ``logistic``, ``ridge``, ``linear``, ``fewshot`` or ``volume``.
    store
        A store, or its path.
    task
        Which task; default the only one that classifies.
    labels
        Some labels of a multi-label task; default all.
    features
        ``cls``, ``patch_mean``, ``cls+patch_mean``, ``layers:4`` …; default ``cls``, and for ``linear`` all blocks that
        its protocol combines.
    pool
        ``mean``, ``max`` or ``median``: slices of a volume become one row. Of ``volume`` the heads to compare, also
        ``attention``, which learns the weights of the slices; default ``("attention", "mean", "max")``.
    split
        The split to score. ``knn`` learns from train; ``mlknn`` from train and val; the others choose a setting on
        val (or on a part of train) and refit on train + val.
    where
        A condition on the samples, as ``DataFrame.query`` takes it: ``view == 'PA'``.
    train_fraction
        One share of the training rows or several: whole patients, classes in proportion, nested.
    metrics
        Names of :data:`featcache.metrics.METRICS`.
    by
        Columns of the samples whose values make subgroups, such as ``sex``.
    thresholds
        For decisions on labels: ``half`` is 0.5; ``f1`` and ``youden`` are chosen on val.
    n_bootstrap, interval
        Resamples and kind of the 95 % intervals: of patients where they are known, else of rows.
    seed
        Of everything random.
    allow_patient_overlap
        Score although a patient is on both sides; the result says so.
    fresh
        Compute, although the ledger has this result.
    record
        Write the result to the ledger of the store's home.
    **parameters
        Of the probe's estimator: ``k``, ``temperature``, ``standardize`` for ``knn`` (and, for its low-shot form,
        ``n_per_class`` and ``n_tries``); ``C`` for ``logistic`` …; of ``fewshot`` also ``protocol`` (``random``,
        ``study``) and ``episodes``, a file of episodes to replay; of ``volume`` also ``folds``: so many for a
        cross-validation by patient over all splits, 0 for the splits; default 5 where the data give no split.

    Returns
    -------
    Result
        One run per k, shot or training fraction, or the one of the setting that was chosen.

    Raises
    ------
    ProbeError
        If the store, task or split cannot answer: no labels, an empty split, a patient on both sides …

    Examples
    --------
    >>> result = featcache.probe("logistic", "home/nih/model-3f9a1c2e.zarr", by=["sex"])  # doctest: +SKIP
    """
    begin = time.perf_counter()
    PROBES[name]  # an unknown name is the first thing to say
    opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
    answered = chosen_task(opened, task, labels)
    if split == "train":
        raise ProbeError("the probe learns from train: scoring it there says nothing", remedy="Score val or test.")
    if seed < 0:
        raise ConfigurationError(f"seed {seed} is negative")
    if parameters.get("episodes") is not None:
        parameters["episodes"] = read_episodes(parameters["episodes"])
    fractions = (train_fraction,) if isinstance(train_fraction, int | float) else tuple(train_fraction)
    scoring = Scoring(tuple(metrics), n_bootstrap, interval, seed, tuple(by), thresholds)
    pooling, folds = chosen_pools(name, pool), 0
    if name == "volume":
        folds = parameters["folds"] = chosen_folds(opened, parameters.get("folds"))
        if folds:
            split = CROSS_VALIDATED
    question = _Question(name, features, split, pooling, where, fractions, seed, dict(parameters), scoring)
    if folds:
        parts = {split: select_rows(opened, answered, None, where=where, volumes=True)}
    else:
        parts = {
            part: select_rows(opened, answered, part, where=where, volumes=pooling is not None)
            for part in ("train", "val", split)
        }
    _refuse_empty(opened, answered, parts, split)
    overlap = _overlap_notes(opened, parts, allow_patient_overlap)
    mark = fingerprint(
        {
            "evaluation": EVALUATION_VERSION,
            "featcache": importlib.metadata.version("featcache"),
            "question": asdict(question),
            "task": asdict(answered),
            "key": opened.key.digest,
            "data": data_digest(opened, parts),
            "notes": [*opened.notes, *overlap],
        }
    )
    ledger = Ledger.beside(opened.path)
    known = None if fresh else ledger.find(name, mark)
    if known is not None:
        return known
    runs, settings, notes, episodes = _answer(opened, answered, question, parts)
    target = parts[split]
    result = Result(
        probe=name,
        dataset=opened.dataset,
        model=opened.model,
        key=opened.key.digest,
        task=answered.name,
        classes=answered.classes,
        config={
            **_config(question),
            "resampled": "rows" if target.groups is None else "patients",
            **{f"n_{part}": len(parts[part]) for part in ("train", "val") if part in parts},
            **settings,
        },
        runs=tuple(runs),
        ids=target.ids,
        targets=target.y,
        groups=target.groups,
        notes=(*opened.notes, *overlap, *_undefined_notes(target, answered, split), *notes),
        seconds=time.perf_counter() - begin,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=mark,
        versions=_versions(),
        episodes=episodes,
    )
    return ledger.record(result) if record else result


def _answer(
    store: FeatureStore, task: Task, question: _Question, parts: Mapping[str, Rows]
) -> tuple[list[ProbeRun], dict[str, Any], list[str], Mapping[str, Any] | None]:
    """Fit and score for each training fraction; the episodes of few-shot."""
    runs: list[ProbeRun] = []
    notes: list[str] = []
    settings: dict[str, Any] = {}
    episodes: Mapping[str, Any] | None = None
    request = Request(store, question.features, question.pool, len(task.classes), question.seed, question.parameters)
    if question.probe == "volume":
        return _answer_volumes(request, task, question, parts)
    scored, val = parts[question.split], parts["val"]
    want_val = question.scoring.thresholds != "half" and task.type == "multilabel"
    for fraction in question.train_fraction:
        train = fraction_of(parts["train"], fraction, seed=question.seed)
        unseen = val.take(val.starts[:0]) if question.split == "val" else val
        used = {"train": train, "val": unseen, "scored": scored}
        if question.probe == "fewshot" or "n_per_class" in question.parameters:
            if len(question.train_fraction) > 1:
                raise ConfigurationError("few-shot has shots instead of training fractions", remedy="Give one of them.")
            found, settings, notes, episodes = few_shot_runs(
                request, task, train, scored, split=question.split, scoring=question.scoring
            )
            runs += found
            continue
        fitted = fit(question.probe, request, used, want_val=want_val)
        named = {"train_fraction": fraction} if len(question.train_fraction) > 1 or fraction != 1 else {}
        for place, (parameters, scores) in enumerate(fitted.runs):
            runs.append(
                score_run(
                    scored,
                    scores,
                    {**named, **parameters},
                    split=question.split,
                    classes=task.classes,
                    scoring=question.scoring,
                    on_val=fitted.on_val.get(place),
                )
            )
        settings = fitted.settings
        notes += [note for note in fitted.notes if note not in notes]
    return runs, settings, notes, episodes


def _answer_volumes(
    request: Request, task: Task, question: _Question, parts: Mapping[str, Rows]
) -> tuple[list[ProbeRun], dict[str, Any], list[str], None]:
    """The heads of volumes, one run each."""
    if question.train_fraction != (1.0,):
        raise ConfigurationError("probe 'volume' takes no training fraction", remedy="Leave it out.")
    parameters = dict(request.parameters)
    folds, scored = parameters.pop("folds"), parts[question.split]
    request = request.replaced(parameters)
    if folds:
        fitted = cross_validate_volumes(request, question.pool, scored, folds)
    else:
        val = parts["val"]
        unseen = val.take(val.starts[:0]) if question.split == "val" else val
        fitted = fit_volumes(request, question.pool, {"train": parts["train"], "val": unseen, "scored": scored})
    runs = [
        score_run(
            scored,
            scores,
            chosen,
            split=question.split,
            classes=task.classes,
            scoring=question.scoring,
            on_val=fitted.on_val.get(place),
        )
        for place, (chosen, scores) in enumerate(fitted.runs)
    ]
    return runs, {"folds": folds, **fitted.settings}, list(fitted.notes), None


def _config(question: _Question) -> dict[str, Any]:
    """What was asked, flat, with what is not used left out."""
    scoring = asdict(question.scoring)
    config = {
        "features": question.features or "default",
        "seed": question.seed,
        "n_bootstrap": scoring["n_bootstrap"],
        "interval": scoring["interval"],
    }
    extras = {
        "pool": question.pool,
        "where": question.where,
        "by": list(question.scoring.by) or None,
        "thresholds": None if question.scoring.thresholds == "half" else question.scoring.thresholds,
        "train_fraction": None if question.train_fraction == (1.0,) else list(question.train_fraction),
    }
    return config | {name: value for name, value in extras.items() if value is not None}


def _refuse_empty(store: FeatureStore, task: Task, parts: Mapping[str, Rows], split: str) -> None:
    for name in ("train", split):
        if name in parts and len(parts[name]) == 0:
            counts = store.samples["split"].value_counts(dropna=False).to_dict()
            raise ProbeError(
                f"dataset {store.dataset}: no rows with a label for task {task.name!r} in split {name!r}",
                remedy=f"Rows by split: {counts or 'none'}. Choose with --split, widen --where, or give the data a "
                "split.",
            )


def _overlap_notes(store: FeatureStore, parts: Mapping[str, Rows], allowed: bool) -> list[str]:
    samples = store.samples
    if "patient" not in samples or samples["patient"].isna().all():
        if store.split_origin == "within-subject":
            return []
        return ["No patient ids: the intervals resample images, and one patient may be in several splits."]
    members = {name: set(rows.frame["patient"].dropna()) for name, rows in parts.items()}
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


def _undefined_notes(rows: Rows, task: Task, split: str) -> list[str]:
    missing = undefined_classes(rows.y, len(task.classes))
    if not len(missing):
        return []
    listed = ", ".join(task.classes[index] for index in missing)
    return [f"AUROC is undefined in {split} and left out of the macro mean for: {listed}."]


def _versions() -> dict[str, str]:
    packages = ("featcache", "numpy", "scipy", "faiss-cpu")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

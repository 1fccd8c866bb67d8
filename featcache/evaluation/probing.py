"""``probe``: one question to one store, answered with intervals and remembered."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from featcache.errors import ConfigurationError, ProbeError
from featcache.evaluation.answering import Question, answer, config_of
from featcache.evaluation.caveats import overlap_notes, refuse_empty, undefined_notes
from featcache.evaluation.rows import chosen_task, data_digest, select_rows
from featcache.evaluation.scoring import Scoring, Thresholds
from featcache.evaluation.shots import read_episodes
from featcache.evaluation.volumes import (
    CROSS_VALIDATED,
    chosen_folds,
    chosen_pools,
)
from featcache.metrics import DEFAULT_METRICS
from featcache.probes import PROBES
from featcache.records import Result
from featcache.results import Ledger, fingerprint
from featcache.store import FeatureStore

__all__ = ["probe"]

EVALUATION_VERSION = 2
"""Semantic version of what this package computes, part of a result's fingerprint: raise it when numbers change."""


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
    question = Question(name, features, split, pooling, where, fractions, seed, dict(parameters), scoring)
    if folds:
        parts = {split: select_rows(opened, answered, None, where=where, volumes=True)}
    else:
        parts = {
            part: select_rows(opened, answered, part, where=where, volumes=pooling is not None)
            for part in ("train", "val", split)
        }
    refuse_empty(opened, answered, parts, split)
    overlap = overlap_notes(opened, parts, allow_patient_overlap)
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
    runs, settings, notes, episodes = answer(opened, answered, question, parts)
    target = parts[split]
    result = Result(
        probe=name,
        dataset=opened.dataset,
        model=opened.model,
        key=opened.key.digest,
        task=answered.name,
        classes=answered.classes,
        config={
            **config_of(question),
            "resampled": "rows" if target.groups is None else "patients",
            **{f"n_{part}": len(parts[part]) for part in ("train", "val") if part in parts},
            **settings,
        },
        runs=tuple(runs),
        ids=target.ids,
        targets=target.y,
        groups=target.groups,
        notes=(*opened.notes, *overlap, *undefined_notes(target, answered, split), *notes),
        seconds=time.perf_counter() - begin,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=mark,
        versions=_versions(),
        episodes=episodes,
    )
    return ledger.record(result) if record else result


def _versions() -> dict[str, str]:
    packages = ("featcache", "numpy", "scipy", "faiss-cpu")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

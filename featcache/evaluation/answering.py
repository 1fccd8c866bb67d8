"""One question, fitted and scored for every setting that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featcache.errors import ConfigurationError
from featcache.evaluation.fitting import Request, fit
from featcache.evaluation.rows import Rows, fraction_of
from featcache.evaluation.scoring import Scoring, score_run
from featcache.evaluation.shots import few_shot_runs
from featcache.evaluation.volumes import cross_validate_volumes, fit_volumes
from featcache.records import ProbeRun, Task
from featcache.store import FeatureStore

__all__ = ["Question", "answer", "config_of"]


@dataclass(frozen=True, slots=True)
class Question:
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


def answer(
    store: FeatureStore, task: Task, question: Question, parts: Mapping[str, Rows]
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
    request: Request, task: Task, question: Question, parts: Mapping[str, Rows]
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


def config_of(question: Question) -> dict[str, Any]:
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

"""Few-shot: many small training sets, and the curve of their mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import ConfigurationError, ProbeError
from featcache.evaluation.fitting import Request, make, settings_of
from featcache.evaluation.rows import Rows
from featcache.evaluation.scoring import Scoring
from featcache.metrics import select_metrics
from featcache.probes import Episodes, learning_curve, spaced_episodes, study_episodes
from featcache.records import Estimate, ProbeRun, Task

__all__ = ["few_shot_runs", "read_episodes"]

_SHOTS = (1, 2, 4, 8, 16)


def few_shot_runs(
    request: Request, task: Task, train: Rows, scored: Rows, *, split: str, scoring: Scoring
) -> tuple[list[ProbeRun], dict[str, Any], list[str], Mapping[str, Any]]:
    """Fit and score every episode.

    Of the request's parameters, ``protocol`` (``random`` or ``study``) and ``episodes`` (to replay, as JSON) are for
    this function; the others are the estimator's.

    Returns
    -------
    runs
        One for each number of shots: means over episodes, without scores of single samples.
    settings, notes
        Of the estimator.
    episodes
        What was drawn, as JSON: with it the same episodes can be replayed.
    """
    parameters = dict(request.parameters)
    if "n_per_class" in parameters:
        parameters = _low_shot(parameters, train)
    protocol, replayed = parameters.pop("protocol", "random"), parameters.pop("episodes", None)
    notes: list[str] = []
    if "shots" not in parameters and replayed is None:
        parameters["shots"], notes = _feasible(train)
    elif np.ndim(parameters.get("shots", ())) == 0:
        parameters["shots"] = (parameters["shots"],)
    episodes = _given(protocol, replayed, train, task, parameters)
    estimator = make("fewshot", request.replaced(parameters))
    estimator.fit(request.matrix(train), train.y, groups=train.groups, episodes=episodes, n_classes=request.n_classes)
    metrics = select_metrics(scoring.metrics)
    found = estimator.evaluate_many(request.matrix(scored), scored.y, metrics)
    curves = {
        name: learning_curve(estimator.shots_, values, within=(-1.0 if name == "mcc" else 0.0, 1.0))
        for name, values in found.items()
    }
    runs = [
        ProbeRun(
            parameters={"shots": shots, "head": estimator.head, "n_episodes": estimator.episodes_.n_episodes},
            split=split,
            n=len(scored),
            metrics={
                name: Estimate(points[place].value, points[place].low, points[place].high)
                for name, points in curves.items()
            },
            scores=None,
        )
        for place, shots in enumerate(estimator.shots_)
    ]
    notes.append("Few-shot intervals are t intervals of the mean over episodes: they cover the draw of the support.")
    settings = settings_of(estimator) | {"protocol": protocol}
    return runs, settings, [*notes, *estimator.notes_], estimator.episodes_.to_dict()


def _low_shot(parameters: Mapping[str, Any], train: Rows) -> dict[str, Any]:
    """The few-shot probe that the low-shot form of kNN is: one number of shots, few tries, neighbours by direction."""
    allowed = {"k", "temperature", "n_per_class", "n_tries"}
    if set(parameters) - allowed:
        raise ConfigurationError(
            f"low-shot kNN does not take {', '.join(sorted(set(parameters) - allowed))}",
            remedy=f"It takes {', '.join(sorted(allowed))}.",
        )
    shots = int(parameters["n_per_class"])
    classes = train.y.shape[1] if train.y.ndim == 2 else len(np.unique(train.y))
    k = np.atleast_1d(parameters.get("k", min(20, shots * classes)))
    if len(k) > 1:
        raise ConfigurationError("low-shot kNN takes one k", remedy="Run it once for each k.")
    chosen = {name: parameters[name] for name in ("temperature",) if name in parameters}
    return {"shots": (shots,), "n_episodes": parameters.get("n_tries", 5), "head": "knn", "k": int(k[0]), **chosen}


def _feasible(train: Rows) -> tuple[tuple[int, ...], list[str]]:
    """The usual shots, without those that some class or label has too few rows for."""
    if train.y.ndim == 2:
        counts = np.nansum(train.y == 1, axis=0)
    else:
        counts = np.bincount(train.y[train.y >= 0])
        counts = counts[counts > 0]
    most = int(counts.min(initial=_SHOTS[-1]))
    fitting = tuple(shots for shots in _SHOTS if shots <= most) or _SHOTS[:1]
    if fitting == _SHOTS:
        return fitting, []
    left_out = ", ".join(map(str, _SHOTS[len(fitting) :]))
    return fitting, [f"The rarest class has {most} training rows: {left_out} shots are left out."]


def read_episodes(file: Path | str) -> Mapping[str, Any]:
    """Episodes as a result's folder in the ledger keeps them.

    Raises
    ------
    ConfigurationError
        If the file is not there or holds something else.
    """
    try:
        content: Mapping[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
        Episodes.from_dict(content)
    except (OSError, ValueError, TypeError, ProbeError) as error:
        raise ConfigurationError(
            f"{file} holds no episodes ({error})", remedy="Name the episodes.json of a recorded result."
        ) from error
    return content


def _given(protocol: str, replayed: Any, train: Rows, task: Task, parameters: Mapping[str, Any]) -> Episodes | None:
    """Episodes that are not drawn at random: replayed, or by the study's rules."""
    if replayed is not None:
        return Episodes.from_dict(replayed)
    if protocol == "random":
        return None
    if protocol != "study":
        raise ConfigurationError(f"few-shot protocol {protocol!r} is unknown", remedy="Known: random, study.")
    shots = tuple(parameters["shots"])
    if train.y.ndim == 1:
        return spaced_episodes(train.y, shots)
    groups = train.groups if train.groups is not None else np.arange(len(train))
    return study_episodes(train.y, groups, shots, task.classes)

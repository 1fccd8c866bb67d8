"""How each probe is fitted: on which rows, what it gives, and its scores of val before val was learnt from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.evaluation.rows import Pool, Rows, pooled_features, read_blocks
from featcache.probes import PROBES
from featcache.registry import load_dotted
from featcache.store import FeatureStore

__all__ = ["FITTERS", "Fitted", "Request", "fit", "make", "settings_of"]

OnVal = tuple[NDArray[Any], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Request:
    """What a probe works on."""

    store: FeatureStore
    """Where the features are."""
    features: str | None
    """An expression of :meth:`FeatureStore.features`; None for what the probe takes by default."""
    pool: Pool | None
    """How slices become a volume."""
    n_classes: int
    """Columns of the scores."""
    seed: int
    """Of everything random."""
    parameters: Mapping[str, Any]
    """Of the estimator."""

    def replaced(self, parameters: Mapping[str, Any]) -> Request:
        """The same with other settings."""
        return replace(self, parameters=parameters)

    def matrix(self, rows: Rows) -> NDArray[np.float32]:
        """(n, D) features of some rows."""
        return pooled_features(self.store, rows, self.features or "cls", self.pool)


@dataclass(slots=True)
class Fitted:
    """What came of one fit."""

    runs: list[tuple[dict[str, Any], NDArray[np.float64]]]
    """(what distinguishes it, (n, C) scores) of each setting."""
    settings: dict[str, Any]
    """Every setting of the estimator, defaults resolved."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""
    on_val: dict[int, OnVal] = field(default_factory=dict)
    """By place in ``runs``: targets and scores of val by a probe that did not learn from val."""


Parts = Mapping[str, Rows]
"""``train``, ``val`` (maybe empty) and ``scored``."""


def fit(name: str, request: Request, parts: Parts, *, want_val: bool) -> Fitted:
    """Fit a probe and score the rows.

    Parameters
    ----------
    name
        Of the probe.
    request
        Features and settings.
    parts
        ``train``, ``val`` and ``scored``; where val itself is scored, ``val`` is empty.
    want_val
        Also score val by a probe that has not learnt from it, to choose thresholds.

    Raises
    ------
    ConfigurationError
        If the probe does not take an option.
    """
    return FITTERS[name](name, request, parts, want_val)


def make(name: str, request: Request) -> Any:
    """The estimator with the options that were given."""
    estimator = load_dotted(PROBES[name].loader)
    grids = _GRIDS if name != "fewshot" else {"shots"}
    parameters = {  # one value of a grid is a grid of one
        option: (value,) if option in grids and np.ndim(value) == 0 else value
        for option, value in request.parameters.items()
    }
    seeded = {"seed": request.seed} if name in _SEEDED else {}
    try:
        return estimator(**parameters, **seeded)
    except TypeError as error:
        raise ConfigurationError(f"probe {name!r} does not take these options: {error}") from error


_GRIDS = frozenset({"k", "C", "alpha", "learning_rates", "n_last_blocks", "avgpool"})
_SEEDED = frozenset({"fewshot", "linear", "logistic", "ridge", "volume"})


def settings_of(estimator: Any) -> dict[str, Any]:
    """The estimator's parameters as JSON values, and what it chose."""
    settings = {
        name: _plain(value)
        for name, value in vars(estimator).items()
        if not name.endswith("_") and not name.startswith("_")
    }
    if hasattr(estimator, "selection_"):
        settings["selection"] = estimator.selection_
    return settings


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist() if isinstance(value, tuple | list | np.ndarray) else value


def _fit_neighbours(name: str, request: Request, parts: Parts, want_val: bool) -> Fitted:
    """kNN learns from train alone: it chooses nothing, so that val stays unseen."""
    estimator = make(name, request)
    train = parts["train"]
    estimator.fit(request.matrix(train), train.y, n_classes=request.n_classes)
    by_k = estimator.predict_scores(request.matrix(parts["scored"]))
    runs = [({"k": k}, scores) for k, scores in by_k.items()]
    fitted = Fitted(runs, settings_of(estimator), tuple(getattr(estimator, "notes_", ())))
    if want_val and len(parts["val"]):
        on_val = estimator.predict_scores(request.matrix(parts["val"]))
        fitted.on_val = {place: (parts["val"].y, on_val[run["k"]]) for place, (run, _) in enumerate(runs)}
    return fitted


def _fit_multilabel_neighbours(name: str, request: Request, parts: Parts, want_val: bool) -> Fitted:
    """ML-kNN learns from train and val, as the study does."""
    if parts["train"].y.ndim != 2:
        raise ProbeError("ML-kNN answers multi-label tasks", remedy="Use probe knn for exclusive classes.")
    estimator = make(name, request)
    known = [part for part in (parts["train"], parts["val"]) if len(part)]
    X = np.concatenate([request.matrix(part) for part in known])
    estimator.fit(X, np.concatenate([part.y for part in known]))
    by_k = estimator.predict_scores(request.matrix(parts["scored"]))
    runs = [({"k": k}, scores) for k, scores in by_k.items()]
    fitted = Fitted(runs, settings_of(estimator), tuple(getattr(estimator, "notes_", ())))
    if want_val and len(parts["val"]):
        alone = make(name, request).fit(request.matrix(parts["train"]), parts["train"].y)
        on_val = alone.predict_scores(request.matrix(parts["val"]))
        fitted.on_val = {place: (parts["val"].y, on_val[run["k"]]) for place, (run, _) in enumerate(runs)}
    return fitted


def _fit_selected(name: str, request: Request, parts: Parts, want_val: bool) -> Fitted:
    """A setting is chosen on val (or on a part of train), one model is fitted on train and val, scored once."""
    chosen = {"logistic": "C", "ridge": "alpha"}.get(name)
    estimator = make(name, request)
    matrix: Callable[[Rows], Any] = request.matrix if chosen is not None else lambda rows: _blocks(request, rows)
    train, val = parts["train"], parts["val"]
    X = matrix(train)
    held = (matrix(val), val.y) if len(val) else ()
    estimator.fit(X, train.y, *held, groups=train.groups, n_classes=request.n_classes)
    if chosen is not None:
        parameters: dict[str, Any] = {chosen: getattr(estimator, f"{chosen}_")}
    else:
        parameters = {"lr": estimator.lr_, "n_last_blocks": estimator.n_last_blocks_, "avgpool": estimator.avgpool_}
    scores = estimator.predict_scores(matrix(parts["scored"]))
    said = str(estimator.selection_)
    unseen = (f"No val split: {said}",) if not held and "held out" in said else ()
    fitted = Fitted([(parameters, scores)], settings_of(estimator), (*unseen, *estimator.notes_))
    if want_val and held:
        names = {"lr": "learning_rates", "n_last_blocks": "n_last_blocks", "avgpool": "avgpool"}
        one = {names.get(key, key): (value,) for key, value in parameters.items()}
        alone = make(name, request.replaced({**request.parameters, **one}))
        alone.fit(X, train.y, groups=train.groups, n_classes=request.n_classes)
        fitted.on_val = {0: (val.y, alone.predict_scores(held[0]))}
    return fitted


def _blocks(request: Request, rows: Rows) -> Any:
    """What the linear protocols combine: tokens by name, or one matrix where features were named."""
    if request.features is not None:
        return request.matrix(rows)
    names = [name for name in ("cls", "intermediate", "patch_mean") if name in request.store]
    return read_blocks(request.store, rows, names, request.pool)


Fitter = Callable[[str, Request, Parts, bool], Fitted]

FITTERS: dict[str, Fitter] = {
    "knn": _fit_neighbours,
    "linear": _fit_selected,
    "logistic": _fit_selected,
    "mlknn": _fit_multilabel_neighbours,
    "ridge": _fit_selected,
}
"""By the probe's name."""

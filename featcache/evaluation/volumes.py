"""The heads of the probe ``volume``: fitted on the splits, or cross-validated by patient where the data give none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError
from featcache.evaluation.fitting import Fitted, Request, make, settings_of
from featcache.evaluation.rows import Pool, Rows
from featcache.probes import patient_folds
from featcache.probes.bags import BagPool
from featcache.registry import nearest
from featcache.store import FeatureStore

__all__ = ["CROSS_VALIDATED", "chosen_folds", "chosen_pools", "cross_validate_volumes", "fit_volumes"]

CROSS_VALIDATED = "cross-validated"
"""Name of the split of scores that were each given by a head which had not seen the patient."""

_DEFAULT_FOLDS = 5
_DEFAULT_POOLS: tuple[BagPool, ...] = ("attention", "mean", "max")

Slices = list[NDArray[np.float32]]


def chosen_pools(name: str, pool: str | Sequence[str] | None) -> Any:
    """How slices are pooled: one way or none for most probes, a tuple of heads for ``volume``.

    Raises
    ------
    ConfigurationError
        For a way that is not known, or that the probe cannot learn.
    """
    given = () if pool is None else (pool,) if isinstance(pool, str) else tuple(pool)
    for way in given:
        if way not in get_args(BagPool):
            raise ConfigurationError(
                f"unknown pool {way!r}{nearest(way, get_args(BagPool))}",
                remedy=f"Known: {', '.join(get_args(BagPool))}.",
            )
    if name == "volume":
        return tuple(dict.fromkeys(given)) or _DEFAULT_POOLS
    if len(given) > 1 or set(given) - set(get_args(Pool)):
        raise ConfigurationError(
            f"probe {name!r} takes one pool of {', '.join(get_args(Pool))}, got {', '.join(given)}",
            remedy="Attention is learnt together with its head: featcache probe volume --pool attention,mean.",
        )
    return given[0] if given else None


def chosen_folds(store: FeatureStore, folds: int | None) -> int:
    """Folds of the cross-validation; 0 for the splits, which is the default where the data give them.

    Raises
    ------
    ConfigurationError
        If the number is 1 or negative.
    """
    if folds is None:
        return _DEFAULT_FOLDS if store.split_origin in ("seeded", "none") else 0
    if folds == 1 or folds < 0:
        raise ConfigurationError(f"a cross-validation has at least 2 folds, got {folds}", remedy="0 uses the splits.")
    return folds


def fit_volumes(request: Request, pools: Sequence[BagPool], parts: Mapping[str, Rows]) -> Fitted:
    """Fit a head for each pool on train (and val) and score the rows.

    Parameters
    ----------
    request
        Features and settings.
    pools
        The heads.
    parts
        ``train``, ``val`` (maybe empty) and ``scored``, rows being volumes.
    """
    slices = {name: _slices(request, rows) for name, rows in parts.items() if len(rows)}
    train, val, fitted = parts["train"], parts["val"], Fitted([], {})
    held = (slices["val"], val.y) if len(val) else ()
    for place, pool in enumerate(pools):
        estimator = _estimator(request, pool)
        estimator.fit(slices["train"], train.y, *held, groups=train.groups, n_classes=request.n_classes)
        chosen = {"pool": pool, "lr": estimator.lr_, "epochs": estimator.epochs_}
        fitted.runs.append((chosen, estimator.predict_scores(slices["scored"])))
        if held:
            fitted.on_val[place] = (val.y, estimator.val_scores_)
        _keep_settings(fitted, estimator, pool)
        fitted.notes += tuple(f"{pool}: {note}" for note in estimator.notes_)
    return fitted


def cross_validate_volumes(request: Request, pools: Sequence[BagPool], rows: Rows, folds: int) -> Fitted:
    """Score each volume by heads that have not seen its patient.

    Parameters
    ----------
    request
        Features and settings; its seed also deals the patients.
    pools
        The heads.
    rows
        Volumes of all splits.
    folds
        How many.
    """
    slices, fold = _slices(request, rows), patient_folds(rows.y, rows.groups, folds, request.seed)
    fitted = Fitted([], {})
    groups = rows.groups
    for pool in pools:
        scores = np.empty((len(rows), request.n_classes))
        chosen: list[tuple[float, int]] = []
        said: Counter[str] = Counter()
        for number in range(folds):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            estimator = _estimator(request, pool).fit(
                _some(slices, inside),
                rows.y[inside],
                groups=None if groups is None else groups[inside],
                n_classes=request.n_classes,
            )
            scores[outside] = estimator.predict_scores(_some(slices, outside))
            chosen.append((estimator.lr_, estimator.epochs_))
            _keep_settings(fitted, estimator, f"{pool}, fold {number}")
            said.update(estimator.notes_)
        fitted.notes += tuple(f"{pool}, {count} of {folds} folds: {note}" for note, count in said.items())
        fitted.runs.append(({"pool": pool}, scores))
        fitted.settings[f"chosen, {pool}"] = [{"lr": rate, "epochs": epochs} for rate, epochs in chosen]
    fitted.settings["fold"] = fold.tolist()
    unit = "volume" if groups is None else "patient"
    note = (
        f"Cross-validated in {folds} folds by {unit}, seed {request.seed}: each volume is scored by a head that has "
        f"not seen its {unit}; learning rate and epochs are chosen within the other folds."
    )
    fitted.notes = (note, *fitted.notes)
    return fitted


def _slices(request: Request, rows: Rows) -> Slices:
    """(n_i, D) features of the slices of each volume."""
    features = request.store.features(request.features or "cls", rows.members)
    return np.split(features, rows.starts[1:])


def _some(slices: Slices, which: NDArray[np.int64]) -> Slices:
    return [slices[place] for place in which.tolist()]


def _estimator(request: Request, pool: BagPool) -> Any:
    return make("volume", request.replaced({**request.parameters, "pool": pool}))


def _keep_settings(fitted: Fitted, estimator: Any, name: str) -> None:
    """Settings are the same for all heads but for the pool; what was chosen is each head's own."""
    settings = settings_of(estimator)
    selection = settings.pop("selection")
    settings.pop("pool")
    fitted.settings |= settings | {f"selection, {name}": selection}

"""What every probe is, and the checks of its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError

__all__ = [
    "Probe",
    "ProbeSpec",
    "as_numbers",
    "check_features",
    "check_rows",
    "check_targets",
    "check_temperature",
    "column_moments",
    "row_blocks",
]

# Numbers worked on at a time: 64 MB of float32.
_BLOCK = 2**24


class Probe(Protocol):
    """An estimator over arrays: ``__init__`` stores settings, ``fit`` learns, learned state ends in ``_``."""

    def fit(self, X: ArrayLike, y: ArrayLike, /) -> Self:
        """Learn from (n, D) features and (n,) class indices or (n, L) multi-label targets."""

    def predict_scores(self, X: ArrayLike, /) -> NDArray[np.float64] | dict[int, NDArray[np.float64]]:
        """(n, C) scores, or one such array for each setting that the probe sweeps."""


class NotNumbersError(ProbeError, TypeError):
    """Features that are no numbers; a ``TypeError`` too, as from numpy and scikit-learn."""


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """A row of the registry of probes."""

    name: str
    """What users type."""
    summary: str
    """One sentence for lists and help."""
    loader: str
    """Dotted name of the class, ``"package.module:Class"``."""


def check_features(X: ArrayLike, *, name: str = "X", n_features: int | None = None) -> NDArray[np.float32]:
    """(n, D) features as contiguous float32.

    Parameters
    ----------
    X
        (n, D) array of any real dtype.
    name
        What the message calls it.
    n_features
        D that is expected; None accepts any.

    Returns
    -------
    (n, D) float32

    Raises
    ------
    ProbeError
        If it is not two-dimensional, is empty, has another D, or holds NaN or infinity.

    Examples
    --------
    >>> check_features([[1, 2]]).dtype
    dtype('float32')
    """
    given = _real_matrix(X, name)
    if n_features is not None and given.shape[1] != n_features:
        raise ProbeError(
            f"{name} has {given.shape[1]} features, but probe is expecting {n_features} features as input",
            remedy="Use features of the same store and family for fitting and scoring.",
        )
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(given, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ProbeError(
            f"{name} has NaN or infinity in {len(bad)} of {len(features)} rows, first: {bad[:5].tolist()}",
            remedy="Leave these rows out; if they overflowed float16, extract with --dtype float32.",
        )
    return features


def as_numbers(y: ArrayLike, name: str) -> NDArray[Any]:
    """Targets as an array; one of Python objects becomes float64.

    Raises
    ------
    ProbeError
        If an object is no number.

    Examples
    --------
    >>> as_numbers(np.array([0, 1], dtype=object), "y").dtype
    dtype('float64')
    """
    given = np.asarray(y)
    if given.dtype != object:
        return given
    try:
        return given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ProbeError(f"Unknown label type: object ({name}: {error})", remedy="Encode the classes.") from error


def _real_matrix(X: ArrayLike, name: str) -> NDArray[Any]:
    """(n, D) real numbers with a row and a column, or an error in words that scikit-learn's checks know."""
    if hasattr(X, "toarray"):
        raise ProbeError(f"{name}: sparse data was passed, dense data is required", remedy="Pass X.toarray().")
    given = np.asarray(X)
    if given.dtype == object:
        try:
            given = given.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise NotNumbersError(f"{name} holds no numbers: {error}", remedy="Pass an array of numbers.") from error
    if given.dtype.kind == "c":
        raise ProbeError(f"Complex data not supported: {name} has dtype {given.dtype}", remedy="Pass real numbers.")
    if given.dtype.kind in "biuf" and given.ndim == 2 and 0 not in given.shape:
        return given
    found = (
        f"{name} must be an (n, D) array of real numbers with at least one row and one column, got shape "
        f"{given.shape}, dtype {given.dtype}"
    )
    if given.ndim == 2 and given.shape[0] == 0:
        raise ProbeError(f"{found}: it has 0 samples", remedy="Check that the split has rows.")
    if given.ndim == 2 and given.shape[1] == 0:
        raise ProbeError(
            f"{found}: 0 feature(s) (shape={given.shape}) while a minimum of 1 is required.",
            remedy="Name features that the store has.",
        )
    raise ProbeError(found, remedy="Reshape your data, or pool patch tokens to one vector a row.")


def check_targets(y: ArrayLike, n: int, *, n_classes: int | None = None, name: str = "y") -> tuple[NDArray[Any], int]:
    """Targets in canonical form and the number of classes.

    Parameters
    ----------
    y
        (n,) class indices from 0, or (n, L) multi-label matrix of 0, 1 and NaN for missing.
    n
        Number of rows of the features.
    n_classes
        C, or L; None takes it from ``y``.
    name
        What the message calls it.

    Returns
    -------
    (n,) int64 or (n, L) float64, and C or L

    Raises
    ------
    ProbeError
        If the shape, a value or the number of classes does not fit.

    Examples
    --------
    >>> check_targets([0, 2], 2)
    (array([0, 2]), 3)
    """
    if y is None:
        raise ProbeError(f"a probe requires y to be passed, but the target y is None ({name})")
    given = as_numbers(y, name)
    if given.dtype.kind not in "biuf" or given.ndim not in (1, 2) or len(given) != n or 0 in given.shape:
        raise ProbeError(
            f"{name}: expected numbers of shape ({n},) or ({n}, L), got {given.dtype} of shape {given.shape}",
            remedy="Encode the classes as 0..C-1, one target for each row of the features.",
        )
    values = given.astype(np.float64)
    if given.ndim == 2:
        if not (np.isnan(values) | (values == 0) | (values == 1)).all():
            raise ProbeError(f"{name} holds a multi-label value that is not 0, 1 or NaN (missing)")
        found = given.shape[1]
    else:
        if not (np.isfinite(values) & (values >= 0) & (values == np.floor(values))).all():
            raise ProbeError(f"{name} holds a value that is no class index", remedy="Leave rows without a label out.")
        found = int(values.max()) + 1
    if n_classes is not None and (found > n_classes or (given.ndim == 2 and found != n_classes)):
        raise ProbeError(f"{name} has {found} classes or labels, expected {n_classes}")
    return values if given.ndim == 2 else values.astype(np.int64), n_classes or found


def check_temperature(temperature: float) -> None:
    """Raise :class:`ProbeError` unless the softmax temperature is positive and finite.

    Examples
    --------
    >>> check_temperature(0.07)
    """
    if not 0 < temperature < float("inf"):
        raise ProbeError(f"temperature must be positive, got {temperature}", remedy="The usual value is 0.07.")


def column_moments(X: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and scale of each column, in float64 and without a float64 copy of all of ``X``.

    Parameters
    ----------
    X
        (n, D) float32 features.

    Returns
    -------
    mean, scale : (D,) float64
        ``scale`` is the standard deviation with divisor n, and 1 for a constant column.

    Examples
    --------
    >>> column_moments(np.array([[1, 5], [3, 5]], dtype=np.float32))
    (array([2., 5.]), array([1., 1.]))
    """
    mean = X.mean(axis=0, dtype=np.float64)
    squares = np.zeros(X.shape[1])
    for rows in row_blocks(len(X), X.shape[1]):
        squares += np.square(X[rows] - mean).sum(axis=0)
    # By its range, not by a deviation of zero: the mean of equal numbers is rounded too.
    constant = X.min(axis=0) == X.max(axis=0)
    return mean, np.where(constant, 1.0, np.sqrt(squares / len(X)))


def row_blocks(n: int, numbers_per_row: int, *, at_least: int = 1) -> Iterator[slice]:
    """Slices that cover n rows, each with a bounded count of numbers; as many as wanted where there are the rows.

    Examples
    --------
    >>> list(row_blocks(3, 2**23))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    step = max(1, min(_BLOCK // numbers_per_row, -(-n // at_least)))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def check_rows(X: ArrayLike, *, name: str = "X", n_features: int | None = None) -> NDArray[np.floating]:
    """(n, D) features as :func:`check_features` wants them, but float16 and float32 are left as they are.

    For estimators that read their rows in blocks: a float16 array is never copied as a whole.

    Parameters
    ----------
    X, name, n_features
        As in :func:`check_features`.

    Returns
    -------
    (n, D) float16 or float32

    Raises
    ------
    ProbeError
        As :func:`check_features`.

    Examples
    --------
    >>> check_rows(np.ones((2, 3), dtype=np.float16)).dtype
    dtype('float16')
    """
    given = np.asarray(X)
    if given.dtype not in (np.float16, np.float32) or given.ndim != 2 or 0 in given.shape:
        return check_features(X, name=name, n_features=n_features)
    finite = all(np.isfinite(given[rows]).all() for rows in row_blocks(len(given), 16 * given.shape[1]))
    if not finite or (n_features is not None and given.shape[1] != n_features):
        return check_features(given, name=name, n_features=n_features)
    return given

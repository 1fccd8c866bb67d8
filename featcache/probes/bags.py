"""Bags of rows: the slices of each volume, of unequal number, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache.errors import ProbeError
from featcache.probes.base import check_features

__all__ = ["BagPool", "Bags", "position_waves"]

Singles: TypeAlias = NDArray[np.float32]
BagPool: TypeAlias = Literal["attention", "mean", "max", "median"]

POSITION_WAVES = 4
"""Cosines that tell a head where in its volume a slice is."""


@dataclass(frozen=True, slots=True)
class Bags:
    """Rows of several bags, each bag's side by side."""

    rows: Singles
    """(N, D)."""
    starts: NDArray[np.int64]
    """(B,) where each bag begins; none is empty."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(B,) rows of each bag."""
        return np.diff(np.append(self.starts, len(self.rows)))

    @property
    def owner(self) -> NDArray[np.int64]:
        """(N,) bag of each row."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @classmethod
    def check(cls, X: Sequence[ArrayLike] | NDArray[Any], *, name: str = "X", n_features: int | None = None) -> Bags:
        """The bags of a sequence of (n_i, D) arrays.

        Parameters
        ----------
        X
            One array of slices for each volume, in the order of the slices; a vector is a volume of one slice.
        name
            What a message calls them.
        n_features
            D that is expected; None accepts any.

        Raises
        ------
        ProbeError
            If there is no bag, one is empty or no matrix, the widths differ, or a number is NaN or infinite.

        Examples
        --------
        >>> Bags.check([[[1, 2]], [[3, 4], [5, 6]]]).sizes.tolist()
        [1, 2]
        """
        if hasattr(X, "toarray") or (isinstance(X, np.ndarray) and X.ndim < 3):
            matrix: Any = X
            rows = check_features(matrix, name=name, n_features=n_features)
            return cls(rows, np.arange(len(rows)))
        given = [np.atleast_2d(bag) for bag in X]
        wrong = [place for place, bag in enumerate(given) if bag.ndim != 2 or 0 in bag.shape]
        if not given or wrong or len({bag.shape[1] for bag in given}) > 1:
            shapes = [bag.shape for bag in ([given[place] for place in wrong] or given)[:5]]
            raise ProbeError(
                f"{name} must be a sequence of (n_i, D) arrays with a row each and one D, got shapes {shapes}",
                remedy="Give one array of slice features for each volume.",
            )
        sizes = np.array([len(bag) for bag in given])
        return cls(check_features(np.concatenate(given), name=name, n_features=n_features), np.cumsum(sizes) - sizes)

    def take(self, which: NDArray[np.int64]) -> Bags:
        """Some of the bags, in that order."""
        sizes = self.sizes[which]
        starts = np.cumsum(sizes) - sizes
        rows = np.repeat(self.starts[which] - starts, sizes) + np.arange(sizes.sum())
        return Bags(self.rows[rows], starts)

    def pooled(self, pool: BagPool) -> Singles:
        """(B, D) mean, maximum or median of each bag."""
        if pool == "max":
            return np.asarray(np.maximum.reduceat(self.rows, self.starts, axis=0))
        if pool == "median":
            return np.stack([np.median(part, axis=0) for part in np.split(self.rows, self.starts[1:])])
        sums = np.add.reduceat(self.rows, self.starts, axis=0, dtype=np.float64)
        return (sums / self.sizes[:, None]).astype(np.float32)

    def with_positions(self) -> Bags:
        """With columns for the relative position of each row in its bag, see :func:`position_waves`."""
        place = np.arange(len(self.rows)) - np.repeat(self.starts, self.sizes)
        waves = position_waves((place + 0.5) / np.repeat(self.sizes, self.sizes))
        return Bags(np.hstack([self.rows, waves]), self.starts)


def position_waves(share: ArrayLike) -> Singles:
    """(n, 4) columns ``sqrt(2) cos(pi j t)`` of positions t between 0 and 1, j = 1 to 4: smooth, of unit variance.

    Examples
    --------
    >>> np.abs(position_waves([0.5])).round().tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """
    angle = np.pi * np.asarray(share, dtype=np.float64)[:, None] * np.arange(1, POSITION_WAVES + 1)
    waves: Singles = (np.sqrt(2) * np.cos(angle)).astype(np.float32)
    return waves

"""``StoredTokens``: rows of a family of tokens exactly as they lie on disk, to be copied to another store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.store.backend import NOT_FEATURES, family_path, locate_rows, open_backend, token_families
from featcache.store.feature_array import FeatureArray
from featcache.store.feature_store import FeatureStore
from featcache.store.token_basis import read_basis
from featcache.store.zarr_layout import family_of

__all__ = ["StoredTokens", "stored_tokens"]


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """A family of tokens of some rows: nothing is decoded."""

    arrays: dict[str, FeatureArray]
    """``tokens``, and ``scales`` of int8 ones, (n, …) each."""
    basis: NDArray[np.float32] | None
    """Of projected tokens, (layers, 1 + d, D)."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each array."""
        return {name: array.shape[1:] for name, array in self.arrays.items()}

    @property
    def present(self) -> NDArray[np.bool_]:
        """(n,) which rows the family has."""
        return next(iter(self.arrays.values())).rows >= 0

    def read(self, name: str, places: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array."""
        return self.arrays[name][places]


def stored_tokens(store: FeatureStore, digests: NDArray[np.uint8]) -> dict[str, StoredTokens]:
    """The families of tokens of a Zarr store, by name, for (n, 16) digests.

    A packed store has none: it holds what readers see, and neither scales nor bases.

    Raises
    ------
    StoreCorruptError
        If the basis of a family is gone or damaged.
    """
    found = {}
    for family in token_families(store.path):
        group = family_path(store.path, family)
        backend = open_backend(group)
        rows = locate_rows(*backend.committed(), digests)
        names = [name for name in family_of(backend.attributes)[1] if name not in NOT_FEATURES]
        basis = read_basis(group) if "basis" in backend.attributes else None
        found[family] = StoredTokens({name: FeatureArray(backend, name, rows, label=family) for name in names}, basis)
    return found

"""``add_rows``: rows that exist already, from another container, committed to a store that lacks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.errors import ConfigurationError
from featcache.store.feature_store import FeatureStore, digests_from_text
from featcache.store.keys import Key
from featcache.store.stored_tokens import StoredTokens
from featcache.store.token_basis import refuse_other_basis
from featcache.store.token_forms import TOKENS, TokenForm, is_token_family
from featcache.store.writer import StoreWriter, open_writer

__all__ = ["ReadRows", "add_rows", "refuse_decoded"]

ReadRows = Callable[[str, NDArray[np.int64]], NDArray[Any]]
"""Gives some rows of the array of a name."""


def add_rows(
    folder: Path,
    key: Key,
    *,
    arrays: Mapping[str, tuple[int, ...]],
    ids: Sequence[str],
    digests: Sequence[str],
    read: ReadRows,
    provenance: Mapping[str, Any],
    present: Callable[[str], NDArray[np.bool_]] | None = None,
    coded: Mapping[str, StoredTokens] | None = None,
) -> tuple[Path, int]:
    """Commit the rows that a store lacks; make the store if it is not there.

    Parameters
    ----------
    folder
        The dataset's folder in the home.
    key
        Of the store.
    arrays
        Shape of one row of each array.
    ids, digests
        Of the n rows on offer; digests of 32 hexadecimal digits may repeat.
    read
        Some of the n rows of an array.
    provenance
        Of a store that is made.
    present
        Which of the n rows there are of a family of tokens; default: all.
    coded
        Families of tokens as they are stored, int8 and projected ones too. A family that is there already must have
        the same basis.

    Returns
    -------
    path
        The store.
    added
        Rows committed.

    Raises
    ------
    ConfigurationError
        For tokens in int8 or projected among ``arrays``: those are read decoded.
    StoreError
        If tokens are projected onto another basis than those of the store.
    """
    offered = digests_from_text(digests)
    first = ~pd.Series(digests, dtype="object").duplicated().to_numpy(dtype=bool)
    vectors = {name: shape for name, shape in arrays.items() if not is_token_family(name)}
    tokens = {name: shape for name, shape in arrays.items() if is_token_family(name)}
    refuse_decoded(arrays)
    with open_writer(folder, key, arrays=vectors, planned_rows=len(offered), provenance=provenance) as writer:
        missing = np.flatnonzero(first & (FeatureStore(writer.path).rows_of(offered) < 0))
        _commit_missing(writer, missing, offered, ids, {name: partial(read, name) for name in vectors})
        for family, shape in tokens.items():
            facts: dict[str, Any] = {"planned_rows": len(offered), "provenance": provenance, "family": family}
            with open_writer(folder, key, arrays={TOKENS: shape}, **facts) as inner:
                absent = FeatureStore(writer.path).array_of(family, offered).rows < 0
                there = absent if present is None else absent & present(family)
                _commit_missing(inner, np.flatnonzero(first & there), offered, ids, {TOKENS: partial(read, family)})
        for family, stored in (coded or {}).items():
            refuse_other_basis(writer.path, family, stored.basis)
            own: dict[str, Any] = {"family": family, "basis": stored.basis, "provenance": provenance}
            with open_writer(folder, key, arrays=stored.shapes, planned_rows=len(offered), **own) as inner:
                absent = FeatureStore(writer.path).array_of(family, offered).rows < 0
                new = np.flatnonzero(first & absent & stored.present)
                _commit_missing(inner, new, offered, ids, {name: partial(stored.read, name) for name in stored.arrays})
    return writer.path, len(missing)


def refuse_decoded(names: Iterable[str]) -> None:
    """Raise if one of the arrays is of tokens in int8 or projected: exports and packed stores hold them decoded.

    Raises
    ------
    ConfigurationError
        Names the family.
    """
    for name in names:
        form = TokenForm.of_family(name)
        if form is not None and not form.is_plain:
            raise ConfigurationError(
                f"tokens of the form {name!r} cannot be copied to another store: they are an approximation",
                remedy="Extract them there with the same options, merge the Zarr store, or leave them out of the "
                "export (--features).",
            )


def _commit_missing(
    writer: StoreWriter,
    missing: NDArray[np.int64],
    digests: NDArray[np.uint8],
    ids: Sequence[str],
    read: Mapping[str, Callable[[NDArray[np.int64]], NDArray[Any]]],
) -> None:
    if len(missing) == 0:
        return
    for position, number in enumerate(writer.reserve(len(missing))):
        part = missing[position * writer.chunk_rows : (position + 1) * writer.chunk_rows]
        rows = {name: read_one(part) for name, read_one in read.items()}
        writer.commit(number, digests[part], [ids[row] for row in part.tolist()], rows)

"""What a store shows: its samples that have features, and the arrays that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError
from featcache.registry import nearest
from featcache.store.feature_store import FeatureStore, digests_from_text
from featcache.store.samples import SampleTable

__all__ = ["chosen_arrays", "visible_rows"]


def visible_rows(store: FeatureStore) -> tuple[SampleTable, NDArray[np.int64]]:
    """The samples that have features, their digests included, and the row number in the container of each.

    Returns
    -------
    table
        Of the n samples of ``store.samples`` in their order, with the column ``digest``.
    rows
        (n,) for :meth:`Backend.read`.
    """
    table = store.table
    rows = store.rows_of(digests_from_text(table.frame["digest"].tolist()))
    present = rows >= 0
    return replace(table, frame=table.frame[present].reset_index(drop=True)), rows[present]


def chosen_arrays(store: FeatureStore, features: Sequence[str] | None) -> list[str]:
    """Names of the arrays asked for, checked; all of them for None.

    Raises
    ------
    ConfigurationError
        If the store lacks one, or none is asked for.
    """
    names = list(dict.fromkeys(store.names if features is None else features))
    for name in names:
        if name not in store:
            raise ConfigurationError(
                f"{store.path.name} has no array {name!r}{nearest(name, store.names)}",
                remedy=f"It has: {', '.join(store.names)}.",
            )
    if not names:
        raise ConfigurationError("no array is asked for", remedy=f"The store has: {', '.join(store.names)}.")
    return names

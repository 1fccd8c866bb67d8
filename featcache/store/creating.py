"""``create_group``: a new group of the store, empty, with the sizes of its segments."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError
from featcache.store.backend import FORMAT_VERSION
from featcache.store.durable import sync_folder, write_durably
from featcache.store.keys import Key
from featcache.store.manifest import group_copy
from featcache.store.token_basis import to_npy
from featcache.store.token_forms import BASIS
from featcache.store.zarr_layout import group_document, layouts_of, to_json

__all__ = ["chunk_rows_for", "create_group", "token_rows_for"]

_SHARD_BYTES = 1 << 26
"""About the size of a shard of tokens: a segment is held in memory while it is computed."""


def chunk_rows_for(rows: int, together: int = 1) -> int:
    """Rows of a segment for a dataset of so many rows: at least 16 segments, 64 to 1024 rows each.

    Segments hold the largest volume too, if it has no more than 4096 slices.

    Examples
    --------
    >>> chunk_rows_for(800), chunk_rows_for(5_000), chunk_rows_for(112_120), chunk_rows_for(800, together=150)
    (64, 256, 1024, 256)
    """
    enough = min(1024, max(64, 1 << max(1, rows // 16).bit_length() - 1))
    return max(enough, min(4096, 1 << max(0, together - 1).bit_length()))


def token_rows_for(row_bytes: int) -> int:
    """Images of a segment of tokens: about 64 MB, a power of two from 8 to 64.

    Examples
    --------
    >>> token_rows_for(16 * 16 * 1024 * 2), token_rows_for(32 * 32 * 1024 * 2)
    (64, 32)
    """
    return min(64, max(8, 1 << max(1, _SHARD_BYTES // max(1, row_bytes)).bit_length() - 1))


def create_group(
    path: Path,
    key: Key,
    family: str,
    arrays: Mapping[str, tuple[int, ...]],
    *,
    planned_rows: int,
    together: int,
    provenance: Mapping[str, Any],
    basis: NDArray[np.float32] | None,
) -> None:
    """Make an empty group to the side and move it into place."""
    shapes = {"digests": [16], "ids": [], **{name: list(shape) for name, shape in arrays.items()}}
    attributes = {
        "format_version": FORMAT_VERSION,
        "key": key.digest,
        "spec": key.as_dict(),
        "families": {family: shapes},
        "chunk_rows": 1,
        "provenance": dict(provenance),
    }
    if family == "vectors" and key.dtype != "uint8":
        attributes["chunk_rows"] = chunk_rows_for(planned_rows, together)
    else:
        layouts = layouts_of(attributes)
        attributes["chunk_rows"] = token_rows_for(sum(layouts[name].row_bytes for name in arrays))
    if basis is not None:
        stored_basis = to_npy(basis)
        attributes["basis"] = hashlib.sha256(stored_basis).hexdigest()
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "segments").mkdir(parents=True)
    for layout in layouts_of(attributes).values():
        (partial / layout.name / "c").mkdir(parents=True)
        write_durably(partial / layout.name / "zarr.json", to_json(layout.document(0)))
    document = to_json(group_document({"featcache": attributes}))
    if basis is not None:
        write_durably(partial / BASIS, stored_basis)
    write_durably(partial / "segments" / "zarr.json", to_json(group_document({})))
    write_durably(group_copy(partial), document)
    write_durably(partial / "zarr.json", document)
    if path.exists():
        raise StoreCorruptError(
            f"{path} is there without its document zarr.json",
            remedy=f"Run `featcache verify --repair --store {path}`, or remove that folder.",
        )
    partial.rename(path)
    sync_folder(path.parent)

"""The basis onto which a family's tokens are projected: kept beside them, covered by the group's document."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError, StoreError
from featcache.store.backend import family_path
from featcache.store.token_forms import BASIS
from featcache.store.zarr_backend import read_attributes

__all__ = ["basis_fault", "read_basis", "refuse_other_basis", "to_npy"]


def to_npy(basis: NDArray[np.float32]) -> bytes:
    """The file of a basis."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(basis, "<f4"))
    return content.getvalue()


def read_basis(family: Path) -> NDArray[np.float32]:
    """The basis of a family: (layers, 1 + d, D) float32, the mean and below it the components.

    Raises
    ------
    StoreCorruptError
        If it is gone or damaged.
    """
    fault = basis_fault(family)
    if fault is not None:
        raise StoreCorruptError(f"{family / BASIS}: {fault}", remedy="featcache verify --repair")
    basis: NDArray[np.float32] = np.load(family / BASIS)
    return basis


def refuse_other_basis(store: Path, family: str, basis: NDArray[np.float32] | None) -> None:
    """Raise if a store has the family with tokens on another basis: their numbers do not compare.

    Raises
    ------
    StoreError
        Names the field.
    """
    group = family_path(store, family)
    if not (group / "zarr.json").is_file():
        return
    there = read_attributes(group).get("basis")
    here = None if basis is None else hashlib.sha256(to_npy(basis)).hexdigest()
    if there != here:
        raise StoreError(
            f"{family} was projected onto different bases: {family}.basis: {(here or 'none')[:8]}, there "
            f"{(there or 'none')[:8]} ({store})",
            remedy=f"Remove it on one side (featcache rm --family {family} --store …), join, and extract it again.",
        )


def basis_fault(family: Path) -> str | None:
    """What is wrong with the basis of a family; None if nothing is, or if it has none and needs none."""
    expected = read_attributes(family).get("basis")
    if expected is None:
        return None
    try:
        content = (family / BASIS).read_bytes()
    except OSError as error:
        return f"the basis of the projected tokens cannot be read: {error.strerror}"
    if hashlib.sha256(content).hexdigest() != expected:
        return "the basis of the projected tokens is not what was written (SHA-256)"
    return None

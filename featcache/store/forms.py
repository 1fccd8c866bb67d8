"""The two forms of a store: a Zarr group that grows, or one packed HDF5 file that is written anew.

A store in the packed form has a Zarr group beside it only while an extraction lasts (or after one was killed): its
new segments. Both together are the store then, and packing makes one file of them.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError
from featcache.records import Failure
from featcache.store.adding import add_rows
from featcache.store.backend import NO_ROW, locate_rows, open_backend
from featcache.store.feature_array import FeatureArray
from featcache.store.feature_store import FeatureStore, digests_from_text
from featcache.store.find import packed_path
from featcache.store.lock import write_lock
from featcache.store.packing import Content, check_packed, readable_rows, write_packed
from featcache.store.removal import discard_group, remove_locks
from featcache.store.samples import read_samples
from featcache.store.token_forms import is_token_family

__all__ = ["StoreFormat", "keep_rows", "open_forms", "salvage", "seal", "unpack"]

StoreFormat = Literal["zarr", "hdf5"]


def open_forms(store: Path, form: StoreFormat) -> list[FeatureStore]:
    """What there is of a store in a form: the Zarr group, and for ``hdf5`` the packed file too.

    Parameters
    ----------
    store
        Path of the Zarr group, whether it is there or not.
    form
        ``zarr`` ignores a packed copy beside the group.
    """
    paths = [store] if (store / "zarr.json").is_file() else []
    if form == "hdf5" and packed_path(store).is_file():
        paths.append(packed_path(store))
    return [FeatureStore(path) for path in paths]


def seal(store: Path, failures: Sequence[Failure]) -> Path:
    """Pack all that there is of a store into its one HDF5 file, then remove the Zarr group.

    Parameters
    ----------
    store
        Path of the Zarr group.
    failures
        The samples in quarantine.

    Returns
    -------
    Path
        The packed file. Rows that no sample needs are in it too, until ``gc``.

    Raises
    ------
    StoreLockedError
        If a process writes to the group, or shards do.
    """
    with write_lock(store):  # from before the rows are read: none is committed to what is about to go
        target = _pack(store, failures)
        grew = (store / "zarr.json").is_file()
        if grew:
            discard_group(store)
    if grew:
        remove_locks(store)
    return target


def _pack(store: Path, failures: Sequence[Failure]) -> Path:
    forms = open_forms(store, "hdf5")
    target = packed_path(store)
    table = read_samples(store.parent)
    committed = np.concatenate([form.digests for form in forms])
    wanted = committed[:0] if table is None else digests_from_text(table.frame["digest"].tolist())
    shown = wanted[locate_rows(committed, np.arange(len(committed)), wanted) >= 0]
    write_packed(target, _content(forms, _unique(np.concatenate([shown, committed])), failures))
    return target


def keep_rows(path: Path, digests: NDArray[np.uint8], *, without: Container[str] = ()) -> None:
    """Pack a packed store again with only the rows of (n, 16) digests, and without the arrays named."""
    opened = FeatureStore(path)
    write_packed(path, _content([opened], digests, opened.failures, without))


def unpack(store: Path) -> int:
    """Make the Zarr group of a store whose only form is a packed file; the rows that were copied."""
    opened = FeatureStore(packed_path(store))
    return _copy(opened, np.ones(len(opened.digests), bool), provenance={"form": "zarr"})


def salvage(path: Path) -> int:
    """Move the rows of a damaged packed store that can still be read into a Zarr group; remove the file.

    Returns
    -------
    int
        Rows that are lost: the next extraction computes them.

    Raises
    ------
    StoreCorruptError
        If what says what the rows are cannot be read.
    """
    if not check_packed(path):
        return 0
    opened = FeatureStore(path)
    intact = readable_rows(path)
    _copy(opened, intact, provenance={"form": "hdf5"})
    path.unlink()
    return int((~intact).sum())


def _copy(opened: FeatureStore, chosen: NDArray[np.bool_], *, provenance: dict[str, Any]) -> int:
    digests = opened.digests[chosen]
    names = open_backend(opened.path).ids()
    arrays = {name: opened.array_of(name, digests) for name in opened.names}
    _, added = add_rows(
        opened.path.parent,
        opened.key,
        arrays={name: array.shape[1:] for name, array in arrays.items()},
        ids=[names[row] for row in np.flatnonzero(chosen).tolist()],
        digests=[digest.tobytes().hex() for digest in digests],
        read=lambda name, rows: arrays[name][rows],
        provenance={**opened.attributes["provenance"], **provenance},
    )
    return added


def _content(
    forms: Sequence[FeatureStore],
    digests: NDArray[np.uint8],
    failures: Sequence[Failure],
    without: Container[str] = (),
) -> Content:
    """The rows of some digests out of several forms; rows without tokens that others have are left out."""
    names = list(dict.fromkeys(name for form in forms for name in form.names if name not in without))
    shapes = [{name: form[name].shape[1:] for name in form.names if not is_token_family(name)} for form in forms]
    if any(shape != shapes[0] for shape in shapes):
        raise StoreCorruptError(
            f"the forms of {forms[0].path} hold different arrays: {shapes}", remedy="Move one of them away."
        )
    joined = {name: _Joined([form.array_of(name, digests) for form in forms if name in form]) for name in names}
    complete = np.logical_and.reduce([array.present for array in joined.values()])
    digests = digests[complete]
    known: dict[bytes, str] = {}
    for form in reversed(forms):
        backend = open_backend(form.path)
        held, rows = backend.committed()
        ids = backend.ids()
        known |= {digest.tobytes(): ids[row] for digest, row in zip(held, rows.tolist(), strict=True)}
    return Content(
        attributes={**forms[0].attributes, "provenance": {**forms[0].attributes["provenance"], "form": "hdf5"}},
        dataset=forms[0].dataset,
        digests=digests,
        ids=[known[digest.tobytes()] for digest in digests],
        arrays={name: _Joined([form.array_of(name, digests) for form in forms if name in form]) for name in names},
        failures=failures,
    )


def _unique(digests: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each digest once, in the order of first appearance, without empty places."""
    texts = dict.fromkeys(digest.tobytes() for digest in digests)
    texts.pop(NO_ROW, None)
    return np.frombuffer(b"".join(texts), np.uint8).reshape(-1, 16)


class _Joined:
    """Rows that lie in one of several containers."""

    def __init__(self, arrays: Sequence[FeatureArray]) -> None:
        self._arrays = arrays
        self.shape = arrays[0].shape
        self.dtype = arrays[0].dtype
        self.present: NDArray[np.bool_] = np.logical_or.reduce([array.rows >= 0 for array in arrays])

    def __getitem__(self, key: slice, /) -> NDArray[Any]:
        places = np.arange(len(self.present))[key]
        result = np.empty((len(places), *self.shape[1:]), self.dtype)
        left = np.ones(len(places), bool)
        for array in self._arrays:
            found = left & (array.rows[places] >= 0)
            if found.any():
                result[found] = array[places[found]]
            left &= ~found
        if left.any():
            raise StoreCorruptError(f"{int(left.sum())} rows are in no form of the store", remedy="featcache verify")
        return result

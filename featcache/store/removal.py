"""``remove_store``: one store goes, whatever its form."""

from __future__ import annotations

import shutil
from pathlib import Path

from featcache.store.backend import open_backend
from featcache.store.lock import refuse_live_shards, write_lock
from featcache.store.zarr_backend import read_attributes

__all__ = ["discard_group", "remove_locks", "remove_store"]


def remove_store(store: Path) -> None:
    """Remove a store: out of the way first, so that a kill leaves no half of it under its name.

    Raises
    ------
    StoreLockedError
        If a process writes to it, or shards do.
    """
    if store.is_file():
        open_backend(store)
        refuse_live_shards(store.with_suffix(".zarr"))
        with write_lock(store):
            store.unlink()
        for file in store.parent.glob(f".{store.name}.*"):
            file.unlink(missing_ok=True)
        return
    read_attributes(store)
    with write_lock(store):
        discard_group(store)
    remove_locks(store)


def discard_group(store: Path) -> None:
    """Remove a Zarr group whose lock is held."""
    doomed = store.with_name(f".{store.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    store.rename(doomed)
    shutil.rmtree(doomed)


def remove_locks(store: Path) -> None:
    """Remove the files of the lock of a store that is gone."""
    for file in store.parent.glob(f".{store.name}.lock*"):
        file.unlink(missing_ok=True)

"""``remove_store``: one store goes, whatever its form."""

from __future__ import annotations

import shutil
from pathlib import Path

from featcache.store.backend import open_backend
from featcache.store.lock import write_lock
from featcache.store.zarr_backend import read_attributes

__all__ = ["remove_store"]


def remove_store(store: Path) -> None:
    """Remove a store: out of the way first, so that a kill leaves no half of it under its name."""
    if store.is_file():
        open_backend(store)
        with write_lock(store):
            store.unlink()
        for file in store.parent.glob(f".{store.name}.*"):
            file.unlink(missing_ok=True)
        return
    read_attributes(store)
    doomed = store.with_name(f".{store.name}.removed")
    with write_lock(store):
        shutil.rmtree(doomed, ignore_errors=True)
        store.rename(doomed)
        shutil.rmtree(doomed)
    for file in store.parent.glob(f".{store.name}.lock*"):
        file.unlink(missing_ok=True)

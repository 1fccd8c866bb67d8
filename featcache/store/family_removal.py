"""``remove_family``: one family of tokens goes; the vectors and the other families stay."""

from __future__ import annotations

import shutil
from pathlib import Path

from featcache.errors import ConfigurationError
from featcache.store.backend import family_path, token_families
from featcache.store.durable import explained, sync_folder
from featcache.store.feature_store import FeatureStore
from featcache.store.forms import keep_rows
from featcache.store.lock import refuse_live_shards, write_lock
from featcache.store.manifest import Manifest, read_manifest, write_manifest
from featcache.store.removal import remove_locks
from featcache.store.token_forms import is_token_family

__all__ = ["check_family", "remove_family"]


def check_family(store: Path, family: str) -> None:
    """Refuse what is no family of tokens of a store.

    Raises
    ------
    ConfigurationError
        Names the families that there are.
    """
    if store.is_file():
        held = [name for name in FeatureStore(store).names if is_token_family(name)]
    else:
        held = token_families(store)
    if family not in held:
        raise ConfigurationError(
            f"{store.name} has no family of tokens {family!r}",
            remedy=f"It has: {', '.join(held) or 'none'}. Without --family the whole store is removed.",
        )


def remove_family(store: Path, family: str) -> None:
    """Remove one family of tokens. A kill leaves the family whole, or a leftover that the next writer removes.

    Parameters
    ----------
    store
        The store's folder, or a packed store's file (which is written anew without the array).
    family
        For example ``patches`` or ``patches_pca64_int8``.

    Raises
    ------
    ConfigurationError
        If the store has no such family.
    StoreLockedError
        If a process writes to the store, or shards do.
    """
    check_family(store, family)
    if store.is_file():
        refuse_live_shards(store.with_suffix(".zarr"))
        keep_rows(store, FeatureStore(store).digests, without=(family,))
        return
    group = family_path(store, family)
    aside = group.with_name(f".{family}.partial")  # the name of a leftover: see open_writer
    with write_lock(store), explained(store):
        check_family(store, family)  # another process may have been quicker
        shutil.rmtree(aside, ignore_errors=True)
        noted = read_manifest(store) or Manifest()
        write_manifest(store, next_segment=noted.next_segment, without_family=family)
        group.rename(aside)
        sync_folder(store)
        shutil.rmtree(aside)
        remove_locks(group)

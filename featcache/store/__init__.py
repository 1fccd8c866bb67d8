"""The feature store: content-addressed rows in one Zarr v3 group per cache key (``docs/format.md``)."""

from featcache.store.backend import FORMAT_VERSION, NO_ROW
from featcache.store.digests import StatIndex, file_digest, row_digest
from featcache.store.feature_array import FeatureArray
from featcache.store.feature_store import FeatureStore, digests_from_text
from featcache.store.find import find_store
from featcache.store.gc import GarbagePlan, collect_garbage, plan_gc, remove_store
from featcache.store.home import find_home, last_store, remember_last_store, state_folder, store_paths
from featcache.store.keys import Key
from featcache.store.repair import drop_damage
from featcache.store.samples import SampleTable, read_samples, write_samples
from featcache.store.verify import Problem, verify_store
from featcache.store.writer import StoreWriter, finish_session, open_writer, write_quarantine

__all__ = [
    "FORMAT_VERSION",
    "FeatureArray",
    "FeatureStore",
    "GarbagePlan",
    "Key",
    "NO_ROW",
    "Problem",
    "SampleTable",
    "StatIndex",
    "StoreWriter",
    "collect_garbage",
    "digests_from_text",
    "drop_damage",
    "file_digest",
    "find_home",
    "find_store",
    "finish_session",
    "last_store",
    "open_writer",
    "plan_gc",
    "read_samples",
    "remember_last_store",
    "remove_store",
    "row_digest",
    "state_folder",
    "store_paths",
    "verify_store",
    "write_quarantine",
    "write_samples",
]

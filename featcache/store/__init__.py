"""The feature store: content-addressed rows in one Zarr v3 group per cache key (``docs/format.md``)."""

from featcache.store.adding import ReadRows, add_rows
from featcache.store.backend import FORMAT_VERSION, KEPT_PIXELS, NO_ROW
from featcache.store.digests import StatIndex, content_digest, file_digest, row_digest
from featcache.store.family_removal import check_family, remove_family
from featcache.store.feature_array import FeatureArray
from featcache.store.feature_store import FeatureStore, digests_from_text
from featcache.store.find import find_store, form_of, is_store, key_of, last_store, packed_path, store_paths
from featcache.store.forms import StoreFormat, open_forms, salvage, seal, unpack
from featcache.store.gc import GarbagePlan, collect_garbage, plan_gc
from featcache.store.home import find_home, remember_last_store, state_folder
from featcache.store.imported import store_from_arrays
from featcache.store.joining import join_samples
from featcache.store.keys import Key
from featcache.store.mask_documents import masks_path
from featcache.store.mask_verification import verify_masks
from featcache.store.mask_writer import MaskRow, MaskWriter, open_mask_writer
from featcache.store.masks import Masks, open_masks
from featcache.store.quarantine import write_quarantine
from featcache.store.removal import remove_store
from featcache.store.repair import drop_damage
from featcache.store.samples import SampleTable, read_samples, write_samples
from featcache.store.segments import Segment
from featcache.store.token_basis import read_basis
from featcache.store.token_forms import BASIS, SCALES, TOKENS, TokenDtype, TokenForm, is_token_family
from featcache.store.verify import Problem, verify_store
from featcache.store.writer import StoreWriter, finish_session, open_writer

__all__ = [
    "BASIS",
    "FORMAT_VERSION",
    "FeatureArray",
    "FeatureStore",
    "GarbagePlan",
    "KEPT_PIXELS",
    "Key",
    "MaskRow",
    "MaskWriter",
    "Masks",
    "NO_ROW",
    "Problem",
    "ReadRows",
    "SCALES",
    "SampleTable",
    "Segment",
    "StatIndex",
    "StoreFormat",
    "StoreWriter",
    "TOKENS",
    "TokenDtype",
    "TokenForm",
    "add_rows",
    "check_family",
    "collect_garbage",
    "content_digest",
    "digests_from_text",
    "drop_damage",
    "file_digest",
    "find_home",
    "find_store",
    "finish_session",
    "form_of",
    "is_store",
    "is_token_family",
    "join_samples",
    "key_of",
    "last_store",
    "masks_path",
    "open_forms",
    "open_mask_writer",
    "open_masks",
    "open_writer",
    "packed_path",
    "plan_gc",
    "read_basis",
    "read_samples",
    "remember_last_store",
    "remove_family",
    "remove_store",
    "row_digest",
    "salvage",
    "seal",
    "state_folder",
    "store_from_arrays",
    "store_paths",
    "unpack",
    "verify_masks",
    "verify_store",
    "write_quarantine",
    "write_samples",
]

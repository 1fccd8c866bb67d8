"""featcache: embed every medical image once; probe the embeddings as often as you like."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from featcache.registry import load_dotted

if TYPE_CHECKING:
    from featcache.catalog import list_datasets, list_models, list_stores, open
    from featcache.datasets import Dataset, DatasetReport, check_dataset, load_dataset
    from featcache.errors import FeatcacheError, FeatcacheWarning
    from featcache.evaluation import probe, probe_all
    from featcache.extraction import extract, extract_models
    from featcache.models import load_model
    from featcache.records import Estimate, ExtractionReport, Result, Task
    from featcache.store import FeatureStore

__version__ = importlib.metadata.version("featcache")

_EXPORTS = {
    "Dataset": "featcache.datasets:Dataset",
    "DatasetReport": "featcache.datasets:DatasetReport",
    "Estimate": "featcache.records:Estimate",
    "ExtractionReport": "featcache.records:ExtractionReport",
    "FeatcacheError": "featcache.errors:FeatcacheError",
    "FeatcacheWarning": "featcache.errors:FeatcacheWarning",
    "FeatureStore": "featcache.store:FeatureStore",
    "Result": "featcache.records:Result",
    "Task": "featcache.records:Task",
    "check_dataset": "featcache.datasets:check_dataset",
    "extract": "featcache.extraction:extract",
    "extract_models": "featcache.extraction:extract_models",
    "list_datasets": "featcache.catalog:list_datasets",
    "list_models": "featcache.catalog:list_models",
    "list_stores": "featcache.catalog:list_stores",
    "load_dataset": "featcache.datasets:load_dataset",
    "load_model": "featcache.models:load_model",
    "open": "featcache.catalog:open",
    "probe": "featcache.evaluation:probe",
    "probe_all": "featcache.evaluation:probe_all",
}

__all__ = [
    "Dataset",
    "DatasetReport",
    "Estimate",
    "ExtractionReport",
    "FeatcacheError",
    "FeatcacheWarning",
    "FeatureStore",
    "Result",
    "Task",
    "check_dataset",
    "extract",
    "extract_models",
    "list_datasets",
    "list_models",
    "list_stores",
    "load_dataset",
    "load_model",
    "open",
    "probe",
    "probe_all",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    value = load_dotted(_EXPORTS[name])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

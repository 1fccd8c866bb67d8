"""What there is: the stores of a home, the models and datasets that are known by name."""

from __future__ import annotations

from pathlib import Path

from featcache.datasets import DATASETS
from featcache.models import MODELS
from featcache.store import FeatureStore, find_home, find_store, store_paths

__all__ = ["list_datasets", "list_models", "list_stores", "open"]


def open(target: str | Path | None = None, *, model: str | None = None, home: Path | str | None = None) -> FeatureStore:
    """Open a feature store for reading.

    Parameters
    ----------
    target
        A store's folder, or a dataset's name; None for the store that was extracted last.
    model
        Which of the dataset's stores: a model's name or a store's.
    home
        Folder of the stores; default FEATCACHE_HOME or the platform's data folder.

    Raises
    ------
    StoreNotFoundError
        If nothing fits.
    ConfigurationError
        If several stores fit.

    Examples
    --------
    >>> store = featcache.open("brain_regions", model="efficientnet_lite0")  # doctest: +SKIP
    >>> X, y = store.arrays(split="train", features="cls", target="region")  # doctest: +SKIP
    """
    return FeatureStore(find_store(target, model=model, home=home))


def list_stores(home: Path | str | None = None) -> list[FeatureStore]:
    """All stores of a home, sorted by dataset and name."""
    return [FeatureStore(path) for path in store_paths(find_home(home))]


def list_models() -> list[str]:
    """Registry names of the models; ``hf:`` and ``timm:`` ids work besides."""
    return MODELS.names()


def list_datasets() -> list[str]:
    """Registry names of the datasets."""
    names: list[str] = DATASETS.names()
    return names

"""``find_store``: which store a dataset, a model or nothing at all means."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from featcache.errors import ConfigurationError, StoreError, StoreNotFoundError
from featcache.store.home import find_home, last_store, store_paths
from featcache.store.zarr_backend import read_attributes

__all__ = ["find_store"]


def find_store(target: str | Path | None = None, *, model: str | None = None, home: Path | str | None = None) -> Path:
    """The folder of a store.

    Parameters
    ----------
    target
        A store's folder, or a dataset's name; None for the store extracted last.
    model
        Which of a dataset's stores; needed where there are several.
    home
        Default: FEATCACHE_HOME or the platform's data folder.

    Raises
    ------
    StoreNotFoundError
        If nothing fits; the message lists what there is.
    ConfigurationError
        If several stores fit.
    """
    if target is not None and (Path(target) / "zarr.json").is_file():
        return Path(target)
    folder = find_home(home)
    if target is not None and ("*" in str(target) or len(Path(target).parts) > 1):
        raise StoreNotFoundError(
            f"no feature store at {target}", remedy="`featcache list` shows the stores of the home."
        )
    if target is None and model is None:
        last = last_store(folder)
        if last is None:
            raise StoreNotFoundError(
                f"no feature store in {folder}", remedy="Make one: featcache extract --model M --dataset D."
            )
        return last
    stores = {path: model_of(path) for path in store_paths(folder, None if target is None else str(target))}
    fitting = [path for path, name in stores.items() if model in (None, name, path.name, path.stem)]
    if len(fitting) == 1:
        return fitting[0]
    asked = " and ".join(
        f"{what} {value!r}" for what, value in (("dataset", target), ("model", model)) if value is not None
    )
    listed = "\n".join(f"  {path.parent.name}  {model_of(path)}  {path}" for path in fitting or store_paths(folder))
    if fitting:
        raise ConfigurationError(
            f"{len(fitting)} stores fit {asked}:\n{listed}",
            remedy="Choose one with --store PATH (or --model).",
        )
    raise StoreNotFoundError(
        f"no store in {folder} for {asked}; it has:\n{listed or '  nothing'}",
        remedy="Make it: featcache extract --model M --dataset D.",
    )


def model_of(path: Path) -> str:
    """The model of a store, from its metadata."""
    try:
        return cast(str, read_attributes(path)["spec"]["model"])
    except StoreError:
        return ""  # damaged or newer: no reason not to find its neighbours

"""``find_store``: which store a dataset, a model or nothing at all means; and in which form it lies there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from featcache.errors import ConfigurationError, StoreError, StoreNotFoundError
from featcache.store.backend import KEPT_PIXELS, open_backend
from featcache.store.home import find_home, last_by_home
from featcache.store.keys import Key
from featcache.store.zarr_backend import read_attributes

__all__ = ["find_store", "form_of", "is_store", "key_of", "last_store", "packed_path", "store_paths"]

MASKS = "masks.zarr"
"""The segmentation targets of a dataset lie beside its stores and are none."""

_PACKED = re.compile(r".+-[0-9a-f]{8}\.h5")


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
    if target is not None and is_store(Path(target)):
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
    fitting = [
        path
        for path, name in stores.items()
        if model in (name, path.name, path.stem) or (model is None and name != KEPT_PIXELS)
    ]
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
        return key_of(path).model
    except StoreError:
        return ""  # damaged or newer: no reason not to find its neighbours


def key_of(path: Path) -> Key:
    """The key of a store; of a Zarr group only its document is read, no commit record.

    Raises
    ------
    StoreError
        If the document is damaged, or of a newer format.
    """
    attributes = open_backend(path).attributes if path.is_file() else read_attributes(path)
    return Key.from_dict(attributes["spec"])


def is_store(path: Path) -> bool:
    """Whether this is a Zarr group or an HDF5 file by its name; damaged ones are stores too."""
    return (path / "zarr.json").is_file() or (path.suffix in {".h5", ".hdf5"} and path.is_file())


def packed_path(store: Path) -> Path:
    """The HDF5 file of a store, from the path of its Zarr group."""
    return store.with_suffix(".h5")


def form_of(store: Path) -> Literal["zarr", "hdf5"] | None:
    """The form in which a store stays, from the path of its Zarr group; None if there is none.

    A Zarr group that an extraction to HDF5 began says so in its provenance; any other one is the store, and an HDF5
    file beside it is a copy.
    """
    if (store / "zarr.json").is_file():
        try:
            provenance = read_attributes(store)["provenance"]
        except StoreError:
            return "zarr"
        return "hdf5" if provenance.get("form") == "hdf5" else "zarr"
    return "hdf5" if packed_path(store).is_file() else None


def store_paths(home: Path, dataset: str | None = None) -> list[Path]:
    """All stores of a home, or of one dataset, sorted by name, each in the form in which it stays."""
    folders = dataset or "*"
    groups = {path.parent for path in home.glob(f"{folders}/*.zarr/zarr.json") if path.parent.name != MASKS}
    packed = {path for path in home.glob(f"{folders}/*.h5") if _PACKED.fullmatch(path.name)}
    beside = {path for path in packed if path.with_suffix(".zarr") in groups}
    growing = {path.with_suffix(".zarr") for path in beside if form_of(path.with_suffix(".zarr")) == "hdf5"}
    copies = {path for path in beside if path.with_suffix(".zarr") not in growing}
    return sorted((groups - growing) | (packed - copies))


def last_store(home: Path) -> Path | None:
    """The store of this home that this user extracted last; else the newest one; None in an empty home."""
    noted = last_by_home().get(str(home))
    if noted is not None and is_store(Path(noted)):
        return Path(noted)
    found = [path for path in store_paths(home) if not path.name.startswith(f"{KEPT_PIXELS}-")]
    return max(found, key=_changed, default=None)


def _changed(store: Path) -> float:
    return (store if store.is_file() else store / "segments").stat().st_mtime

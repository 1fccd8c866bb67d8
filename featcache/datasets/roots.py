"""Where a dataset's files lie on this machine."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from featcache.datasets.base import DatasetSpec
from featcache.errors import ConfigurationError, DatasetError

__all__ = ["configured_places", "dataset_root"]


def dataset_root(spec: DatasetSpec, root: Path | str | None = None) -> Path | None:
    """Where a dataset's files lie.

    Looked for in this order: ``root``; the table ``[roots]`` of ``featcache.toml`` in the working folder;
    ``<FEATCACHE_DATA>/<name>`` for each folder in that variable. None for a dataset that needs no root.

    Raises
    ------
    DatasetError
        If a root is needed and none is found, or the one that was given is no folder.
    """
    places = [] if root is None else [Path(root)]
    if root is None and spec.needs_root:
        places = configured_places(spec.name)
    for place in places:
        if place.is_dir():
            return place.absolute()
    if places or spec.needs_root:
        tried = "".join(f"\n  {place}" for place in places) or " nothing (no --root, no FEATCACHE_DATA)"
        raise DatasetError(
            f"dataset {spec.name!r}: no folder with its files; tried{tried}",
            remedy=f"Pass --root DIR, set FEATCACHE_DATA, or name it in featcache.toml. Expected: {spec.layout}",
        )
    return None


def configured_places(name: str) -> list[Path]:
    """The folders that ``featcache.toml`` and FEATCACHE_DATA name for a dataset, whether they exist or not."""
    places: list[Path] = []
    config = Path("featcache.toml")
    if config.is_file():
        try:
            roots = tomllib.loads(config.read_text(encoding="utf-8")).get("roots", {})
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(
                f"featcache.toml is not valid TOML: {error}", remedy="Mend that line, or remove the file."
            ) from error
        if name in roots:
            places.append(Path(roots[name]).expanduser())
    for folder in os.environ.get("FEATCACHE_DATA", "").split(os.pathsep):
        if folder:
            places.append(Path(folder).expanduser() / name)
    return places

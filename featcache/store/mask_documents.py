"""What ``masks.zarr`` says of itself: the attributes of the group, and digests of what they name.

Zarr reads a file that is missing as fill values, which in a mask is background, and believes any document that parses:
so the group's document knows every folder's digest and its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featcache.errors import StoreCorruptError, StoreVersionError
from featcache.store.find import MASKS

__all__ = [
    "DAMAGED",
    "MASKS_VERSION",
    "check_folder",
    "folder_digest",
    "masks_path",
    "part_name",
    "read_mask_attributes",
    "sealed",
]

MASKS_VERSION = 1
"""Of the layout of ``masks.zarr``."""

DAMAGED = "Remove the folder and write the masks again: featcache masks --dataset D."
"""The remedy for what is damaged."""


def masks_path(home: Path, dataset: str) -> Path:
    """The group with the masks of a dataset of the home."""
    return home / dataset / MASKS


def part_name(number: int) -> str:
    """Folder of an array of labels."""
    return f"labels-{number:08}"


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names, sizes and content of all files below a folder; of labels' chunks names and sizes only.

    Each chunk of labels has a checksum of its own, which is compared whenever it is read.
    """
    labels = folder.name.startswith("labels-")
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = not labels or path.name == "zarr.json"
        content = hashlib.sha256(path.read_bytes()).hexdigest() if whole else ""
        total.update(f"{path.relative_to(folder).as_posix()}|{path.stat().st_size}|{content}\n".encode())
    return total.hexdigest()


def check_folder(path: Path, name: str, attributes: Mapping[str, Any]) -> None:
    """Compare a folder of the group with its digest.

    Raises
    ------
    StoreCorruptError
        If it is not there or not what was written.
    """
    expected = attributes["folders"].get(name)
    try:
        found = folder_digest(path / name) if (path / name).is_dir() else None
    except OSError as error:
        raise StoreCorruptError(f"{path / name} cannot be read ({error})", remedy=DAMAGED) from error
    if found is None:
        raise StoreCorruptError(
            f"{path / name} is missing",
            remedy=f"If the masks were written anew in the meantime, open them again. {DAMAGED}",
        )
    if found != expected:
        raise StoreCorruptError(f"{path / name} is not what was written: a file is missing or damaged", remedy=DAMAGED)


def sealed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes with the SHA-256 of their canonical JSON as ``sha256``."""
    rest = {name: value for name, value in attributes.items() if name != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}


def read_mask_attributes(path: Path) -> dict[str, Any]:
    """The attribute ``featcache`` of the group: version, tasks, folders, next number.

    Raises
    ------
    StoreCorruptError
        If the document is damaged or of something else.
    StoreVersionError
        If it is of a newer version.
    """
    try:
        document = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        attributes: dict[str, Any] = document["attributes"]["featcache"]
        version = int(attributes["masks_version"])
        intact = sealed(attributes) == attributes
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorruptError(f"{path} holds no masks of featcache ({error!r})", remedy=DAMAGED) from error
    if version > MASKS_VERSION:
        raise StoreVersionError(
            f"{path} has version {version}, this featcache reads up to {MASKS_VERSION}", remedy="Upgrade featcache."
        )
    if not intact:
        raise StoreCorruptError(f"{path / 'zarr.json'} fails its checksum", remedy=DAMAGED)
    return attributes

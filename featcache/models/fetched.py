"""Folders that ``featcache models get`` filled: the record beside the files, and what it is checked against."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featcache.errors import ConfigurationError, FeatcacheWarning, WeightsError
from featcache.models.spec import ModelSpec
from featcache.registry import load_dotted

__all__ = [
    "RECORD",
    "check_record",
    "compare_configuration",
    "differing_files",
    "file_sha256",
    "read_record",
    "recorded_revision",
]

RECORD = "featcache.json"
"""Name of the record: model, checkpoint, revision, licence, and size and SHA-256 of each file."""

_NETWORK = ("dim", "depth", "patch")
_IMAGES = ("image_size", "resize", "crop_fraction", "interpolation", "mean", "std")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder; None if there is none.

    Raises
    ------
    WeightsError
        If it is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(record["files"], dict) or not all(
            isinstance(file["size"], int) for file in record["files"].values()
        ):
            raise TypeError("files")
    except (ValueError, LookupError, TypeError) as error:
        raise WeightsError(
            f"{path} is damaged", remedy="Fetch the model again with `featcache models get`, or delete that file."
        ) from error
    return record


def check_record(folder: Path, *, content: bool = False) -> None:
    """Compare a folder's files with its record, if it has one: sizes, and with ``content`` SHA-256 too.

    Raises
    ------
    WeightsError
        Lists the files that are missing or differ, as happens when a folder is copied in part.
    """
    wrong = differing_files(folder, content=content)
    if wrong:
        raise WeightsError(
            f"{folder} is not what was fetched, {len(wrong)} files differ: {', '.join(wrong[:8])}",
            remedy="Copy the folder again, or fetch it again with `featcache models get`.",
        )


def differing_files(folder: Path, *, content: bool = False) -> list[str]:
    """Names of recorded files that are missing, of another size, or, with ``content``, of another SHA-256."""
    files: Mapping[str, Any] = (read_record(folder) or {}).get("files", {})
    return [
        name
        for name, facts in files.items()
        if not (folder / name).is_file()
        or (folder / name).stat().st_size != facts["size"]
        or (content and file_sha256(folder / name) != facts["sha256"])
    ]


def recorded_revision(folder: Path) -> str | None:
    """The commit that a folder's record names."""
    revision = (read_record(folder) or {}).get("revision")
    return revision if isinstance(revision, str) else None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare_configuration(spec: ModelSpec, folder: Path) -> list[str]:
    """Compare the configuration in a folder with the row of the zoo.

    Parameters
    ----------
    spec
        A row with source ``huggingface``; any other has nothing to compare.
    folder
        With ``config.json``, and ``preprocessor_config.json`` for what concerns the images.

    Returns
    -------
    list
        Sentences about how the checkpoint's own preprocessing is another than the row's.

    Raises
    ------
    WeightsError
        If it is the configuration of another architecture or size.
    """
    if spec.source != "huggingface" or ":" in spec.name or not (folder / "config.json").is_file():
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeatcacheWarning)  # about a missing preprocessor_config.json
            told: ModelSpec = load_dotted("featcache.models.huggingface:describe")(str(folder))
    except ConfigurationError:
        return []  # loading it will say what is wrong
    kinds = [each.architecture.removesuffix("_vision_model") for each in (spec, told)]
    wrong = [f"architecture {kinds[1]}, expected {kinds[0]}"] if kinds[0] != kinds[1] else []
    wrong += [
        f"{fact} {getattr(told, fact)}, expected {getattr(spec, fact)}"
        for fact in _NETWORK
        if None not in (getattr(told, fact), getattr(spec, fact)) and getattr(told, fact) != getattr(spec, fact)
    ]
    if wrong:
        raise WeightsError(
            f"{folder / 'config.json'} is not that of {spec.name}: {'; '.join(wrong)}",
            remedy=f"Pass the folder itself as model: --model hf:{folder}.",
        )
    if not (folder / "preprocessor_config.json").is_file():
        return []
    return [
        f"{spec.name}: {fact} is {getattr(spec, fact)} in featcache and {getattr(told, fact)} in {folder}; featcache's "
        "is used"
        for fact in _IMAGES
        if getattr(told, fact) != getattr(spec, fact)
    ]

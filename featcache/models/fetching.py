"""``featcache models get``: a model's files into a folder that can be carried to a machine without internet."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from featcache.errors import ConfigurationError, WeightsError
from featcache.models.fetched import RECORD, compare_configuration, differing_files, file_sha256, read_record
from featcache.models.hub import HubFile, download_into, folder_name, list_repository, needed_files
from featcache.models.spec import ModelSpec
from featcache.models.zoo import resolve_model

__all__ = ["FetchedModel", "fetch_model"]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """What lies in the folder."""

    model: str
    """The name that was asked for."""
    folder: Path
    """With the files and their record ``featcache.json``."""
    checkpoint: str
    """Repository of the hub."""
    revision: str
    """Its commit, resolved at download."""
    files: dict[str, int]
    """Name -> bytes."""
    reused: bool
    """Whether all of it was there already, with the recorded SHA-256."""
    notes: tuple[str, ...]
    """What the checkpoint's own configuration says otherwise than featcache's row."""


def fetch_model(
    name: str,
    to: Path | str,
    *,
    endpoint: str | None = None,
    progress: Callable[[str, int | None], None] | None = None,
) -> FetchedModel:
    """Fetch the files that a model is loaded from; called again, it checks them and gets what is missing.

    The files are collected in a folder beside the final one, continued after an interruption, compared with the
    sizes and SHA-256 that the hub announces, and moved to ``to/<name>`` as a whole.

    Parameters
    ----------
    name
        A registry name, ``hf:<id>``, ``timm:<name>`` or ``open_clip:<id>``.
    to
        Folder for one or more models; what ``--weights`` or FEATCACHE_WEIGHTS then names.
    endpoint
        Of the hub; default HF_ENDPOINT, else the public one.
    progress
        Called with name and bytes before each file.

    Raises
    ------
    ConfigurationError
        If the model has no repository on the hub.
    WeightsError
        If the hub cannot be reached or refuses, or sends other bytes than it announces.
    """
    spec = resolve_model(name)
    if "/" not in spec.checkpoint or Path(spec.checkpoint).is_dir():
        where = f"comes with the package {spec.checkpoint}" if spec.checkpoint else "needs no weights"
        raise ConfigurationError(f"{name} {where}: there is nothing to fetch", remedy="Use it as it is.")
    folder = Path(to).expanduser().absolute() / folder_name(spec)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise WeightsError(f"another process is fetching {name} to {folder}", remedy="Wait for it.") from error
    try:
        return _fetch(spec, folder, endpoint, progress)
    finally:
        with contextlib.suppress(OSError):  # what is carried away needs no lock
            Path(lock.lock_file).unlink()
        lock.release()


def _fetch(
    spec: ModelSpec, folder: Path, endpoint: str | None, progress: Callable[[str, int | None], None] | None
) -> FetchedModel:
    record = read_record(folder)
    if record is not None and record.get("checkpoint") == spec.checkpoint:
        is_current = spec.revision in (None, record["revision"])
        wrong = differing_files(folder, content=True)
        if is_current and not wrong:
            return _described(spec, folder, record, reused=True)
    elif folder.exists():
        raise ConfigurationError(
            f"{folder} exists, and `featcache models get {spec.name}` did not make it",
            remedy="Choose another --to, or move that folder away.",
        )
    repository = list_repository(spec, endpoint=endpoint)
    announced = {file.name: file for file in repository.files}
    wanted = [announced[file] for file in needed_files(spec, announced)]
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    if record is not None:
        _reuse(folder, partial, [name for name in record["files"] if name not in wrong])
    _require_space(partial, wanted)
    files = {}
    for file in wanted:
        if progress is not None:
            progress(file.name, file.size)
        if not _is_whole(partial / file.name, file):
            download_into(partial, spec, file, repository.revision, endpoint=endpoint)
        files[file.name] = _checked(partial / file.name, file)
    record = {
        "format": _FORMAT,
        "model": spec.name,
        "checkpoint": spec.checkpoint,
        "revision": repository.revision,
        "licence": spec.licence,
        "gated": spec.gated,
        "citation": spec.citation,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        "featcache": importlib.metadata.version("featcache"),
        "files": files,
    }
    for path in partial.iterdir():
        if path.name not in files:  # of an attempt at another commit
            path.unlink()
    (partial / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _publish(partial, folder)
    return _described(spec, folder, record, reused=False)


def _reuse(folder: Path, partial: Path, names: list[str]) -> None:
    """Link the files that are whole into the next version of the folder."""
    for name in names:
        if not (partial / name).exists():
            try:
                (partial / name).hardlink_to(folder / name)
            except OSError:  # a file system without links
                shutil.copyfile(folder / name, partial / name)


def _is_whole(path: Path, announced: HubFile) -> bool:
    """Whether an earlier attempt got a file; small ones, whose SHA-256 the hub does not know, are fetched again."""
    return path.is_file() and announced.sha256 is not None and announced.sha256 == file_sha256(path)


def _require_space(partial: Path, wanted: list[HubFile]) -> None:
    here = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
    needed = sum(file.size or 0 for file in wanted) - here
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise WeightsError(
            f"{needed / 1e9:.1f} GB are still to be fetched to {partial.parent}, which has {free / 1e9:.1f} GB free",
            remedy="Free some space, or choose another --to.",
        )


def _checked(path: Path, announced: HubFile) -> dict[str, Any]:
    """Size and SHA-256 of a fetched file; bytes that are not those announced are thrown away."""
    size, sha256 = path.stat().st_size, file_sha256(path)
    if announced.size not in (None, size) or announced.sha256 not in (None, sha256):
        path.unlink()
        raise WeightsError(
            f"{announced.name}: {size} bytes of SHA-256 {sha256} arrived, the hub announced {announced.size} of "
            f"{announced.sha256}",
            remedy="Run the same command again; what is whole is kept.",
        )
    return {"size": size, "sha256": sha256}


def _publish(partial: Path, folder: Path) -> None:
    """Put the finished folder in its place, as a whole."""
    if not folder.exists():
        partial.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old)


def _described(spec: ModelSpec, folder: Path, record: dict[str, Any], *, reused: bool) -> FetchedModel:
    return FetchedModel(
        model=spec.name,
        folder=folder,
        checkpoint=spec.checkpoint,
        revision=record["revision"],
        files={name: facts["size"] for name, facts in record["files"].items()},
        reused=reused,
        notes=tuple(compare_configuration(spec, folder)),
    )

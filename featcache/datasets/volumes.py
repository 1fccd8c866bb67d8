"""Volumes as rows: headers give the slices, one row each."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.datasets.base import SAMPLE_COLUMNS
from featcache.datasets.files import shown
from featcache.errors import ConfigurationError, DatasetError, ImageError
from featcache.imaging import read
from featcache.records import Axis

__all__ = ["ITK_EXTENSIONS", "VOLUME_EXTENSIONS", "Volume", "chosen_slices", "read_shape", "slice_table", "volume_name"]

VOLUME_EXTENSIONS = (".nii.gz", ".nii")
ITK_EXTENSIONS = (".mha", ".mhd", ".nrrd")
"""MetaImage and NRRD: where SimpleITK is installed."""

_DEFLATE_RATIO = 1032
"""No deflate stream unpacks to more than this many times its size (258 bytes in two bits)."""

_AXIS_OF: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True, slots=True)
class Volume:
    """One scan and what is known of it."""

    name: str
    """Its id."""
    path: str
    """The file, relative to the root."""
    mask: str | None = None
    """The file of its labels, relative to the root."""
    split: str | None = None
    """Its split."""
    patient: str | None = None
    """Whose it is."""


def volume_name(path: str) -> str:
    """The file's name without its folder and extension.

    Examples
    --------
    >>> volume_name("imagesTr/la_003.NII.gz")
    'la_003'
    """
    name = path.rsplit("/", 1)[-1]
    for extension in VOLUME_EXTENSIONS:
        if name.lower().endswith(extension):
            return name[: -len(extension)]
    return name.rsplit(".", 1)[0]


def read_shape(path: Path) -> tuple[tuple[int, int, int], int]:
    """Size of a volume in canonical RAS order and its number of time points, from the header alone.

    Raises
    ------
    DatasetError
        If the header cannot be read, the affine cannot be inverted, or there are not 3 or 4 dimensions.
    """
    if _by_itk(path):
        from featcache.imaging.orientation import canonical_shape

        return canonical_shape(*_itk_header(path))[0], 1
    image, order = _opened(path)
    shape = [0, 0, 0]
    for axis, size in zip(order[:, 0].astype(int).tolist(), image.shape[:3], strict=True):
        shape[axis] = int(size)
    return (shape[0], shape[1], shape[2]), int(image.shape[3]) if len(image.shape) == 4 else 1


def _by_itk(path: Path) -> bool:
    return path.name.lower().endswith(ITK_EXTENSIONS)


def _itk_header(path: Path) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    from featcache.imaging.itk import read_header

    try:
        return read_header(path)
    except ImageError as error:
        raise DatasetError(f"the header of {path} cannot be read: {error.message}", remedy=error.remedy) from error
    except OSError as error:
        raise DatasetError(f"the header of {path} cannot be read ({error})", remedy="Copy the file again.") from error


def _affine(path: Path) -> NDArray[np.float64]:
    affine: NDArray[np.float64] = _itk_header(path)[1] if _by_itk(path) else _opened(path)[0].affine
    return affine


def _opened(path: Path) -> tuple[Any, NDArray[np.float64]]:
    """The lazy image and its orientation: (3, 2) canonical axis and direction of each axis of the data."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = _by_content(path) if _mixed_case(path) else nibabel.load(path)
        if len(image.shape) not in (3, 4):
            raise DatasetError(f"{path} has the shape {image.shape}", remedy="Expected 3 or 4 dimensions.")
        order = nibabel.io_orientation(image.affine)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error, np.linalg.LinAlgError) as error:
        raise DatasetError(f"the header of {path} cannot be read ({error})", remedy="Copy the file again.") from error
    _refuse_too_short(path, image)
    if np.isnan(order).any():
        raise DatasetError(f"the affine of {path} cannot be inverted", remedy="Write the file again with its geometry.")
    return image, order


def _refuse_too_short(path: Path, image: Any) -> None:
    """A header that promises more than the file can hold would give a row for every slice that is not there."""
    size = path.stat().st_size
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    promised = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    if min(image.shape) < 1 or promised > size * (_DEFLATE_RATIO if compressed else 1):
        raise DatasetError(
            f"{path} has {size:,} bytes, which cannot hold the {image.shape} voxels that its header promises",
            remedy="Copy the file again.",
        )


def _mixed_case(path: Path) -> bool:
    """``x.Nii.gz``: nibabel would look for ``x.nii.gz``, which a file system that tells them apart does not have."""
    ending = path.name[len(volume_name(path.name)) :]
    return ending not in {ending.lower(), ending.upper()}


def _by_content(path: Path) -> Any:
    import nibabel
    from isal import igzip

    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = igzip.decompress(content)  # type: ignore[no-untyped-call]
    second = content[:4] in {(540).to_bytes(4, "little"), (540).to_bytes(4, "big")}
    return (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_bytes(content)


def chosen_slices(slices: str, count: int) -> NDArray[np.int64]:
    """Which of ``count`` slices become rows.

    Parameters
    ----------
    slices
        ``all``; ``every:3`` (0, 3, 6 …); ``n:8`` (the middles of eight equal parts, or all if there are fewer).
    count
        Slices of the volume.

    Raises
    ------
    ConfigurationError
        For any other text.

    Examples
    --------
    >>> chosen_slices("n:2", 10).tolist(), chosen_slices("every:4", 10).tolist()
    ([2, 7], [0, 4, 8])
    """
    kind, _, text = slices.partition(":")
    number = int(text) if text.isdecimal() else 0
    if slices in ("all", "foreground"):
        return np.arange(count)
    if kind == "every" and number > 0:
        return np.arange(0, count, number)
    if kind == "n" and number > 0:
        return np.unique(((np.arange(min(number, count)) + 0.5) * count / min(number, count)).astype(np.int64))
    raise ConfigurationError(
        f"unknown choice of slices {slices!r}", remedy="Known: all, every:N, n:K, foreground (needs label volumes)."
    )


def slice_table(
    root: Path, volumes: Sequence[Volume], *, axis: Axis = "axial", slices: str = "all"
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """One row a slice: :data:`SAMPLE_COLUMNS`, ``mask`` and ``mask_selector``.

    Only headers are read, with ``slices="foreground"`` also the label volumes. A volume whose header cannot be read
    keeps one row, so that the extraction puts it into quarantine by name. Of 4D volumes the first time point is taken.

    Parameters
    ----------
    root
        Paths of the volumes are relative to it.
    volumes
        In the order of the rows.
    axis
        ``axial``, ``coronal`` or ``sagittal``, of the volume in canonical RAS order.
    slices
        See :func:`chosen_slices`; ``foreground``: the slices with a label other than 0.

    Returns
    -------
    samples
        Ids are ``<volume>_<axis>_<index>``.
    notes
        Volumes that cannot be read or have several time points; masks that cannot be read, or have another size and
        the same affine (with ``foreground`` whatever affine).
    """
    if axis not in get_args(Axis):
        raise ConfigurationError(f"unknown axis {axis!r}", remedy=f"Known: {', '.join(get_args(Axis))}.")
    if slices == "foreground" and not any(volume.mask for volume in volumes):
        raise ConfigurationError("slices='foreground' needs label volumes, and there are none", remedy="Use n:K.")
    unreadable, misfits, timed = [], [], []
    rows: list[tuple[Volume, NDArray[np.int64], str | None, bool]] = []
    for volume in volumes:
        mask = volume.mask
        try:
            shape, times = read_shape(root / volume.path)
        except DatasetError as error:
            unreadable.append(error.message.replace(f"{root}/", ""))
            rows.append((volume, np.zeros(1, np.int64), None, False))
            continue
        if times > 1:
            timed.append(volume.name)
        if mask is not None:
            problem = _mask_problem(root / mask, root / volume.path, shape, own_slices=slices == "foreground")
            if problem:
                misfits.append(problem.replace(f"{root}/", ""))
                mask = None
        chosen = chosen_slices(slices, shape[_AXIS_OF[axis]])
        if slices == "foreground":
            chosen = np.zeros(0, np.int64) if mask is None else _foreground(root / mask, axis)
        rows.append((volume, chosen, mask, times > 1))
    return _frame(rows, axis), (
        *((f"{len(unreadable)} volumes cannot be read: {shown(unreadable)}.",) if unreadable else ()),
        *((f"{len(misfits)} masks do not fit and were left out: {shown(misfits)}.",) if misfits else ()),
        *((f"{len(timed)} volumes have several time points, the first is taken: {shown(timed)}.",) if timed else ()),
    )


def _frame(rows: Sequence[tuple[Volume, NDArray[np.int64], str | None, bool]], axis: Axis) -> pd.DataFrame:
    counts = [len(chosen) for _, chosen, _, _ in rows]
    index = np.concatenate([chosen for _, chosen, _, _ in rows]) if rows else np.zeros(0, np.int64)

    def repeated(values: Sequence[str | None]) -> pd.Series[str]:
        return pd.Series(np.repeat(np.array(values, dtype=object), counts), dtype="str")

    # The canonical text of Selector(axis=axis, index=i, time=0), written directly: there may be a million slices.
    times = np.repeat(np.array([',"time":0' if timed else "" for _, _, _, timed in rows], dtype=object), counts)
    numbers = index.tolist()
    texts = [
        f'{{"axis":"{axis}","index":{number}{time}}}' for number, time in zip(numbers, times.tolist(), strict=True)
    ]
    volume = repeated([volume.name for volume, _, _, _ in rows])
    mask = repeated([mask for _, _, mask, _ in rows])
    selector = pd.Series(texts, dtype="str")
    plain = pd.Series([f'{{"axis":"{axis}","index":{number}}}' for number in numbers], dtype="str")
    frame = pd.DataFrame(
        {
            "id": pd.Series(
                [f"{name}_{axis}_{number:03}" for name, number in zip(volume.tolist(), numbers, strict=True)],
                dtype="str",
            ),
            "path": repeated([volume.path for volume, _, _, _ in rows]),
            "selector": selector,
            "patient": repeated([volume.patient for volume, _, _, _ in rows]),
            "volume": volume,
            "axis": pd.Series([axis] * len(index), dtype="str"),
            "index": pd.Series(index, dtype="Int64"),
            "split": repeated([volume.split for volume, _, _, _ in rows]),
        },
        columns=list(SAMPLE_COLUMNS),
    )
    return frame.assign(mask=mask, mask_selector=plain.where(mask.notna()))


def _mask_problem(path: Path, image: Path, shape: tuple[int, int, int], *, own_slices: bool) -> str | None:
    """Why a mask cannot be used. One on another grid is resampled later, unless its own slices are to be chosen."""
    try:
        found, _ = read_shape(path)
    except DatasetError as error:
        return error.message
    if found == shape or not (own_slices or np.allclose(_affine(path), _affine(image))):
        return None
    return f"{path} has the size {found}, its image {shape}"


def _foreground(path: Path, axis: Axis) -> NDArray[np.int64]:
    """Slices in canonical order in which a label volume has any voxel other than 0."""
    if _by_itk(path):
        axis_of = _AXIS_OF[axis]
        return np.flatnonzero((read(path).array != 0).any(axis=tuple({0, 1, 2} - {axis_of})))
    image, order = _opened(path)
    data_axis = int(np.flatnonzero(order[:, 0] == _AXIS_OF[axis])[0])
    voxels = cast(NDArray[Any], np.asanyarray(image.dataobj))
    if voxels.ndim == 4:
        voxels = voxels[..., 0]
    others = tuple(other for other in range(3) if other != data_axis)
    present = (voxels != 0).any(axis=others)
    return np.flatnonzero(present if order[data_axis, 1] > 0 else present[::-1])

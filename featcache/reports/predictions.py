"""Predicted label maps as files that viewers open: NIfTI for volumes, PNG for pictures."""

from __future__ import annotations

import colorsys
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError
from featcache.records import Axis, Selector, VolumeGeometry

__all__ = ["MaskSource", "SavedPredictions", "class_colours", "fill_volume", "save_predictions", "write_volume"]

_AXIS_OF: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
_UNITS = {1.0: "mm", 1000.0: "meter", 0.001: "micron"}


class MaskSource(Protocol):
    """What is needed of a dataset's masks; :class:`featcache.store.Masks` has it."""

    class_names: tuple[str, ...]
    values: tuple[int, ...] | None

    def volume(self, sample: str) -> str | None:
        """The volume of a sample whose geometry is known."""

    def selector(self, sample: str) -> Selector:
        """Which part of the volume a sample is."""

    def shape(self, sample: str) -> tuple[int, int]:
        """(H, W) of its plane."""

    def geometry(self, volume: str) -> VolumeGeometry | None:
        """Where the voxels of a volume lie."""


@dataclass(frozen=True, slots=True)
class SavedPredictions:
    """What :func:`save_predictions` wrote."""

    volumes: Mapping[str, Path]
    """NIfTI file of each volume."""
    pictures: Mapping[str, Path]
    """PNG of each sample that is no slice of a volume with geometry."""
    labels: Path
    """Names and colours of the classes, for ITK-SNAP (Segmentation, Import Label Descriptions)."""
    notes: tuple[str, ...]
    """What a user should know."""


def save_predictions(
    folder: Path, masks: MaskSource, predictions: Mapping[str, NDArray[np.uint8]], *, ids: Sequence[str] | None = None
) -> SavedPredictions:
    """Write one NIfTI file a volume and one PNG a picture.

    A NIfTI file has the array's order and the affine of the image's own file, so that it lies on it in any viewer, and
    the dataset's own label values. A PNG has class numbers as pixel values and shows them in colour.

    Parameters
    ----------
    folder
        Is made if it is not there; files of the same names are replaced.
    masks
        The dataset's masks, for classes and geometry.
    predictions
        (H, W) uint8 class numbers by sample id on native grids; each is asked for once, volume by volume.
    ids
        Samples to write; default all of ``predictions``.

    Raises
    ------
    ConfigurationError
        If there is nothing to write, or a prediction has another size than its plane or a class that is not there.
    """
    names = list(predictions) if ids is None else list(ids)
    if not names:
        raise ConfigurationError("there are no predictions to write", remedy="Score a split that has samples.")
    folder.mkdir(parents=True, exist_ok=True)
    members: dict[str, list[str]] = {}
    for name in names:
        volume = masks.volume(name)
        members.setdefault(f"v{volume}" if volume is not None else f"p{name}", []).append(name)
    files = _file_names([key[1:] for key in members])
    volumes: dict[str, Path] = {}
    pictures: dict[str, Path] = {}
    partial = []
    for (key, samples), stem in zip(members.items(), files, strict=True):
        planes = ((masks.selector(name), _checked(masks, name, predictions[name])) for name in samples)
        geometry = masks.geometry(key[1:]) if key[0] == "v" else None
        if geometry is None:
            (only,) = planes
            pictures[key[1:]] = folder / f"{stem}.png"
            _write_picture(pictures[key[1:]], only[1], len(masks.class_names))
            continue
        volumes[key[1:]] = folder / f"{stem}.nii.gz"
        write_volume(volumes[key[1:]], fill_volume(geometry, planes), geometry, values=masks.values)
        if not _all_there(geometry, [masks.selector(name) for name in samples]):
            partial.append(key[1:])
    labels = folder / "labels.txt"
    values = masks.values if masks.values is not None else range(len(masks.class_names))
    _write_text(labels, _label_descriptions(masks.class_names, values))
    notes: tuple[str, ...] = ()
    if partial:
        shown = ", ".join(partial[:3])
        notes = (f"Of {len(partial)} volumes some slices have no prediction and are background in the file: {shown}.",)
    return SavedPredictions(volumes, pictures, labels, notes)


def fill_volume(geometry: VolumeGeometry, planes: Iterable[tuple[Selector, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Put planes where they were cut from; the inverse of :func:`featcache.imaging.select`.

    Parameters
    ----------
    geometry
        Of the volume.
    planes
        Which part each is, with axis and index, and its (H, W) class numbers.

    Returns
    -------
    (X, Y, Z) uint8
        In canonical order (axes right, anterior, superior); background where there is no plane.

    Raises
    ------
    ConfigurationError
        If a plane has another size than its place.
    """
    volume = np.zeros(geometry.shape, np.uint8)
    for selector, labels in planes:
        if selector.axis is None or selector.index is None:
            raise ConfigurationError(f"{selector.to_text() or 'the whole file'} is no slice of a volume")
        place: NDArray[np.uint8] = volume[(slice(None),) * _AXIS_OF[selector.axis] + (selector.index,)].T[::-1, ::-1]
        if selector.crop is not None:
            row, column, height, width = selector.crop
            place = place[row : row + height, column : column + width]
        if selector.mirror:
            place = place[:, ::-1]
        if place.shape != labels.shape:
            raise ConfigurationError(
                f"a plane of {labels.shape} pixels does not fit {selector.to_text()} of a volume of {geometry.shape}",
                remedy="Resample predictions to the native grid first: "
                "featcache.evaluation.segmentation.native.to_native.",
            )
        place[...] = labels  # a view of the volume
    return volume


def write_volume(
    path: Path, volume: NDArray[np.uint8], geometry: VolumeGeometry, *, values: Sequence[int] | None = None
) -> None:
    """Write a label volume in the order and with the affine of the file that the image came from.

    Parameters
    ----------
    path
        ``.nii.gz`` or ``.nii``; replaced only when it is complete.
    volume
        (X, Y, Z) class numbers in canonical order.
    geometry
        Of the volume.
    values
        What is written for each class; default its number.
    """
    import nibabel
    from nibabel import orientations

    voxels: NDArray[Any] = volume
    if values is not None:
        bytes_do = min(values) >= 0 and max(values) <= 255
        voxels = np.array(values, np.uint8 if bytes_do else np.int32)[volume]
    order = orientations.io_orientation(geometry.file_affine)  # the file's axes in canonical ones
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), order)
    image = nibabel.Nifti1Image(orientations.apply_orientation(voxels, back), geometry.file_affine)
    image.set_sform(geometry.file_affine, code="scanner")
    image.set_qform(geometry.file_affine, code="unknown")
    image.header.set_xyzt_units(_UNITS.get(geometry.file_unit, "mm"))
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    image.to_filename(partial)
    partial.replace(path)


def class_colours(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB of the classes, the background black: neighbours in number are far apart in hue."""
    colours = [(0.0, 0.0, 0.0)]
    for number in range(count - 1):
        hue = (0.02 + number * 0.618034) % 1.0  # the golden ratio: no two come close
        colours.append(colorsys.hsv_to_rgb(hue, (0.85, 0.6)[number // 8 % 2], (1.0, 0.8)[number // 16 % 2]))
    rounded: NDArray[np.uint8] = np.rint(np.array(colours) * 255).astype(np.uint8)
    return rounded


def _write_picture(path: Path, labels: NDArray[np.uint8], n_classes: int) -> None:
    from PIL import Image

    picture = Image.fromarray(labels)
    picture.putpalette(class_colours(n_classes).reshape(-1).tolist())
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    picture.save(partial, format="png")
    partial.replace(path)


def _label_descriptions(classes: Sequence[str], values: Iterable[int]) -> str:
    lines = ["# IDX -R- -G- -B- -A- VIS MSH LABEL"]
    for value, name, (red, green, blue) in zip(values, classes, class_colours(len(classes)).tolist(), strict=True):
        shown = 0 if value == 0 else 1
        lines.append(f'{value} {red} {green} {blue} {shown} {shown} {shown} "{name.replace(chr(34), "")}"')
    return "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _checked(masks: MaskSource, name: str, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if labels.shape != masks.shape(name) or labels.dtype != np.uint8 or int(labels.max()) >= len(masks.class_names):
        raise ConfigurationError(
            f"the prediction of {name!r} is {labels.dtype} of shape {labels.shape} with values up to {labels.max()}, "
            f"expected uint8 of shape {masks.shape(name)} below {len(masks.class_names)}",
            remedy="Resample it to the native grid first: featcache.evaluation.segmentation.native.to_native.",
        )
    return labels


def _all_there(geometry: VolumeGeometry, selectors: Sequence[Selector]) -> bool:
    whole = {(found.axis, found.index) for found in selectors if found.crop is None}
    axes = {axis for axis, _ in whole if axis is not None}
    return any(len([1 for axis, _ in whole if axis == one]) == geometry.shape[_AXIS_OF[one]] for one in axes)


def _file_names(names: Sequence[str]) -> list[str]:
    """A safe and unique file name for each; one that had to be changed ends with a digest of the name."""
    found: list[str] = []
    taken: set[Any] = set()
    for name in names:
        safe = "".join(char if char.isalnum() or char in "._-" else "_" for char in name).lstrip(".")[-120:]
        if safe != name or safe.lower() in taken or safe.lower() in ("labels.txt", ""):
            safe = f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        taken.add(safe.lower())
        found.append(safe)
    return found

"""MetaImage (``.mha``, ``.mhd``) and NRRD through SimpleITK, which is installed with the extra ``formats``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ImageError, MissingDependencyError
from featcache.imaging.geometry import canonical
from featcache.records import Image, Selector

__all__ = ["data_files", "load"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LARGEST_TEXT = 65536


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Read a MetaImage or NRRD file: a volume in canonical RAS orientation, or a plane.

    Raises
    ------
    MissingDependencyError
        If SimpleITK is not installed.
    ImageError
        If the file is damaged, is neither 2D nor 3D, or has several values a voxel (RGB planes are read).
    """
    try:
        sitk: Any = importlib.import_module("SimpleITK")
    except ImportError:
        raise MissingDependencyError(
            "MetaImage and NRRD files are read by SimpleITK, which is not installed",
            remedy="pip install 'featcache[formats]'",
        ) from None
    try:
        image = sitk.ReadImage(str(path))
        array: NDArray[Any] = sitk.GetArrayFromImage(image)
    except RuntimeError:  # its text is a page with the full path
        raise ImageError(
            "the file is no readable MetaImage or NRRD volume", remedy="Copy it again from its source."
        ) from None
    components = int(image.GetNumberOfComponentsPerPixel())
    dimensions = int(image.GetDimension())
    if array.dtype.kind not in "iuf" or dimensions not in {2, 3} or (components, dimensions) not in _FORMS:
        raise ImageError(
            f"the image has {dimensions} dimensions with {components} values of type {array.dtype} each, "
            "expected a grey or RGB plane or a grey volume",
            remedy="Convert the file.",
        )
    full = (0.0, 255.0) if array.dtype == np.uint8 else (float(array.min()), float(array.max()))
    if dimensions == 2:
        x, y = (float(size) for size in image.GetSpacing())
        return Image(array=array, kind="plane", value_range=full, spacing=(y, x))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ImageError("the directions of the axes cannot be inverted", remedy="Repair the header.")
    turned, moved, spacing = canonical(array.transpose(2, 1, 0), _LPS_TO_RAS @ affine)
    return Image(array=turned, kind="volume", value_range=full, spacing=spacing, affine=moved)


_FORMS = {(1, 2), (3, 2), (1, 3)}
"""(values a voxel, dimensions) that can be used."""


def data_files(path: Path) -> tuple[Path, ...]:
    """The files with the voxels of a ``.mhd`` header: the value of its last field, ElementDataFile.

    Raises
    ------
    ImageError
        If the header names no single file.
    """
    with path.open("rb") as file:
        text = file.read(_LARGEST_TEXT).decode("latin-1")
    names = [line.partition("=")[2].strip() for line in text.splitlines() if line.startswith("ElementDataFile")]
    if not names or names[0] == "LOCAL":
        return ()
    if names[0] == "LIST" or "%" in names[0]:
        raise ImageError(
            "the header spreads its voxels over several files", remedy="Write the volume to one .mha file."
        )
    return (path.parent / names[0],)

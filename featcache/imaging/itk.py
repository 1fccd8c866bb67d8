"""MetaImage (``.mha``, ``.mhd``) and NRRD through SimpleITK, which is installed with the extra ``formats``."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from featcache.errors import ImageError, MissingDependencyError
from featcache.imaging.orientation import canonical, invertible
from featcache.records import Image, Selector

__all__ = ["data_files", "load", "read_header"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LARGEST_TEXT = 65536
_PIECE = 1 << 20


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Read a MetaImage or NRRD file: a volume in canonical RAS orientation, or a plane.

    Raises
    ------
    MissingDependencyError
        If SimpleITK is not installed.
    ImageError
        If the file is damaged, is neither 2D nor 3D, or has several values a voxel (RGB planes are read).
    """
    sitk = _sitk()
    if path.suffix.lower() in {".mha", ".mhd"}:
        _check_stream(path)
    _refuse_other_files(path)
    try:
        image = sitk.ReadImage(str(path), imageIO=_reader_of(path))
        array: NDArray[Any] = sitk.GetArrayFromImage(image)
    except RuntimeError:  # its text is a page with the full path
        raise _unreadable() from None
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
    turned, moved, spacing = canonical(array.transpose(2, 1, 0), _affine(image))
    return Image(array=turned, kind="volume", value_range=full, spacing=spacing, affine=moved)


def read_header(path: Path) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Size (I, J, K) of a volume as stored and its affine to RAS+ millimetres, from the header alone.

    Raises
    ------
    ImageError
        If the header cannot be read or the file is no volume.
    """
    _refuse_other_files(path)
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_reader_of(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise _unreadable() from None
    if reader.GetDimension() != 3:
        raise ImageError(f"the image has {reader.GetDimension()} dimensions, expected 3", remedy="Convert the file.")
    i, j, k = (int(size) for size in reader.GetSize())
    return (i, j, k), _affine(reader)


def _sitk() -> Any:
    try:
        return importlib.import_module("SimpleITK")
    except ImportError:
        raise MissingDependencyError(
            "MetaImage and NRRD files are read by SimpleITK, which is not installed",
            remedy="pip install 'featcache[formats]'",
        ) from None


def _reader_of(path: Path) -> str:
    """ITK's own choice goes by the extension and knows only one case of its letters."""
    return "NrrdImageIO" if path.suffix.lower() == ".nrrd" else "MetaImageIO"


def _unreadable() -> ImageError:
    return ImageError("the file is no readable MetaImage or NRRD volume", remedy="Copy it again from its source.")


def _affine(image: Any) -> NDArray[np.float64]:
    """(4, 4) of an image or a reader: ITK's millimetres point left, posterior, superior."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return invertible(_LPS_TO_RAS @ affine)


def _refuse_other_files(path: Path) -> None:
    """A header may name any file of the machine as its voxels; of those beside it only the digest knows."""
    suffix = path.suffix.lower()
    if suffix == ".mhd":
        data_files(path)
    elif re.search(rb"^data ?file *:", _head(path).partition(b"\n\n")[0], re.MULTILINE | re.IGNORECASE):
        raise ImageError("the header names other files with the voxels", remedy="Write the volume to one .nrrd file.")


_FORMS = {(1, 2), (3, 2), (1, 3)}
"""(values a voxel, dimensions) that can be used."""


def _check_stream(path: Path) -> None:
    """Unpack compressed MetaImage voxels to their checksum: ITK passes over damage and returns what came before it."""
    head = _head(path)
    compressed = re.search(rb"^CompressedData\s*=\s*True", head, re.MULTILINE | re.IGNORECASE)
    local = re.search(rb"^ElementDataFile\s*=\s*LOCAL\s*?\r?\n", head, re.MULTILINE)
    if compressed is None:
        return
    source = path if local is not None else next(iter(data_files(path)), path)
    inflate = isal_zlib.decompressobj(wbits=15)
    try:
        with source.open("rb") as file:
            file.seek(local.end() if local is not None else 0)
            while not inflate.eof and (piece := file.read(_PIECE)):
                inflate.decompress(piece)
        intact = inflate.eof
    except isal_zlib.error:  # type: ignore[misc]
        intact = False
    if not intact:
        raise ImageError("the compressed voxels are truncated or damaged", remedy="Copy it again from its source.")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST_TEXT)


def data_files(path: Path) -> tuple[Path, ...]:
    """The files with the voxels of a ``.mhd`` header: the value of its last field, ElementDataFile.

    Raises
    ------
    ImageError
        If the header names no single file, or one that does not lie in its folder or below it.
    """
    text = _head(path).decode("latin-1")
    names = [line.partition("=")[2].strip() for line in text.splitlines() if line.startswith("ElementDataFile")]
    if not names or names[0] == "LOCAL":
        return ()
    if names[0] == "LIST" or "%" in names[0]:
        raise ImageError(
            "the header spreads its voxels over several files", remedy="Write the volume to one .mha file."
        )
    if Path(names[0]).is_absolute() or ".." in Path(names[0]).parts:
        raise ImageError("the header names a file outside its folder", remedy="Write the volume to one .mha file.")
    return (path.parent / names[0],)

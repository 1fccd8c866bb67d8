"""DICOM files: one frame is a plane, frames that lie in a row are a volume, any other frames a stack of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from featcache.errors import ImageError
from featcache.imaging.dicom_codecs import decoder_for
from featcache.imaging.dicom_header import damaged, number, numbers, only_image_errors, read_header, transfer_syntax
from featcache.imaging.dicom_kinds import is_image_class
from featcache.imaging.dicom_padding import padded_pixels, without_padding
from featcache.imaging.dicom_privacy import header_text_kept_inside
from featcache.imaging.dicom_values import Values, joined, to_values
from featcache.imaging.geometry import NoVolumeError, Stack
from featcache.imaging.multiframe import frame_count, frame_header
from featcache.imaging.orientation import canonical
from featcache.records import Image

__all__ = ["MAX_BYTES", "MAX_PIXELS", "decode", "load", "modality", "volume_of"]

MAX_PIXELS = 200_000_000
"""Larger frames are refused before they are decoded: a damaged header can ask for any amount of memory."""
MAX_BYTES = 8 * 2**30
"""Files whose frames take more than this together are refused."""

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def load(path: Path, *, frames: bool = False) -> Image:
    """Decode a DICOM file to values in modality units.

    Rescaling or the modality LUT is applied (CT: Hounsfield units), MONOCHROME1 is inverted, palettes and YBR become
    RGB, and pixel padding takes the smallest value beside it. Windows and VOI LUTs are facts of the image and not
    applied; overlays are not drawn.

    Parameters
    ----------
    path
        The file, with or without preamble, in any transfer syntax of ``docs/inputs.md``.
    frames
        A multi-frame file as a stack of its frames in the order of the file, even where they are a volume.

    Returns
    -------
    Image
        A plane; a volume in canonical RAS orientation, where all frames of a file have one orientation and each its
        own position along the normal; otherwise a stack of planes.

    Raises
    ------
    ImageError
        If the file holds no pixels, is damaged, or asks for too much memory. No message quotes the header.
    """
    with header_text_kept_inside(), only_image_errors():
        return _load(read_header(path), frames=frames)


def _load(header: Dataset, *, frames: bool) -> Image:
    count = frame_count(header)
    facts = [frame_header(header, index) for index in range(count)]
    stored = decode(header)
    frames_stored = [stored] if count == 1 else list(stored)
    values = [to_values(item, fact) for item, fact in zip(frames_stored, facts, strict=True)]
    values = without_padding(values, [padded_pixels(*pair) for pair in zip(frames_stored, facts, strict=True)])
    if count == 1:
        return _image("plane", np.ascontiguousarray(values[0].array), values, facts[0])
    if not frames:
        try:
            geometry = Stack.of(facts)
        except NoVolumeError:
            pass
        else:
            return volume_of([values[index] for index in geometry.order], geometry, facts[0])
    _require_one_shape(values)
    return _image("stack", np.stack(joined(values)), values, facts[0])


def volume_of(values: Sequence[Values], geometry: Stack, header: Dataset) -> Image:
    """Frames in the order of their geometry as a canonical volume.

    Parameters
    ----------
    values
        (H, W) frames; integer types may differ between frames and are joined.
    geometry
        Where they lie.
    header
        Of the first frame.

    Raises
    ------
    ImageError
        If the frames are in colour or differ in size.
    """
    _require_one_shape(values)
    if values[0].array.ndim != 2:
        raise ImageError("the slices are in colour", remedy="Read the files one by one, as single images.")
    # (slice, row, column) -> (column, row, slice), the index order of the affine.
    array, affine, spacing = canonical(np.stack(joined(values)).transpose(2, 1, 0), geometry.affine)
    return _image("volume", array, values, header, spacing=spacing, affine=affine, notes=geometry.notes)


def _image(
    kind: Literal["plane", "volume", "stack"],
    array: NDArray[Any],
    values: Sequence[Values],
    header: Dataset,
    **geometry: Any,
) -> Image:
    """The record; what a header recommends for display is taken from the frame in the middle."""
    middle = values[len(values) // 2]
    if kind != "volume":
        spacing = numbers(header, "PixelSpacing") or numbers(header, "ImagerPixelSpacing")
        geometry["spacing"] = spacing if len(spacing) == 2 and min(spacing) > 0 else None
    scales = {item.full_scale for item in values}
    scale = scales.pop() if len(scales) == 1 else None
    return Image(
        array=array,
        kind=kind,
        value_range=_range(array) if scale is None else scale,
        modality=modality(header),
        unit=middle.unit,
        photometric=middle.photometric,
        windows=middle.windows,
        window_function=middle.window_function,
        voi_lut=middle.voi_lut,
        **geometry,
    )


def decode(header: Dataset) -> NDArray[Any]:
    """The stored samples, before any lookup table: what pydicom's ``pixel_array`` gives, in native byte order.

    Parameters
    ----------
    header
        From :func:`featcache.imaging.dicom_header.read_header`, with pixels.

    Returns
    -------
    ndarray
        (H, W), (H, W, 3), or with a leading axis of frames; colour as RGB.

    Raises
    ------
    ImageError
        If there are no pixels, or they are damaged, truncated, too many, or in an unknown transfer syntax.
    """
    if not any(keyword in header for keyword in _PIXELS):
        raise ImageError(
            f"the DICOM file has no pixels (modality {modality(header) or 'unknown'})",
            remedy="Copy it again: it says that it is an image, and ends before its pixels."
            if is_image_class(header)
            else "Leave it out of the table: reports, contours and presentation states are no images.",
        )
    _refuse_bomb(header)
    syntax = transfer_syntax(header)
    try:
        decoder = decoder_for(syntax)
    except NotImplementedError:
        raise ImageError(
            "the transfer syntax of the DICOM file is not supported: a video, a stream or a private encoding",
            remedy="docs/inputs.md lists those that can be read; convert the file, for example to explicit VR.",
        ) from None
    try:
        array = decoder.as_array(header)[0]
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - codecs raise their own kinds, pydicom whatever the header leads to
        raise damaged("its pixels cannot be decoded", error) from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def modality(header: Dataset) -> str | None:
    """The modality if it is a code string as the standard defines it."""
    value = str(header.get("Modality") or "").strip()
    return value if value.isalnum() and value.isupper() and len(value) <= 16 else None


def _refuse_bomb(header: Dataset) -> None:
    area = (number(header, "Rows") or 0) * (number(header, "Columns") or 0)
    if area > MAX_PIXELS:
        raise ImageError(
            f"{area:,.0f} pixels a frame are more than the limit of {MAX_PIXELS:,}", remedy="Resize the picture first."
        )
    sample = (number(header, "SamplesPerPixel") or 1) * (number(header, "BitsAllocated") or 8) / 8
    size = area * sample * (number(header, "NumberOfFrames") or 1)
    if size > MAX_BYTES:
        raise ImageError(
            f"the frames take {size / 2**30:,.1f} GiB, the limit is {MAX_BYTES / 2**30:g} GiB",
            remedy="Write the frames to several files.",
        )


def _require_one_shape(values: Sequence[Values]) -> None:
    shapes = {item.array.shape for item in values}
    if len(shapes) != 1:
        raise ImageError(
            f"the slices have {len(shapes)} different sizes: {', '.join(map(str, sorted(shapes)))}",
            remedy="Read the files one by one, as single images.",
        )


def _range(array: NDArray[Any]) -> tuple[float, float]:
    return (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)

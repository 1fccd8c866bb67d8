"""PNG, JPEG, TIFF, BMP and WebP through Pillow."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from featcache.errors import ImageError
from featcache.records import Image, Selector

__all__ = ["MAX_PIXELS", "load"]

MAX_PIXELS = 200_000_000
"""Larger pictures are refused before they are decoded: a small file can unpack to tens of gigabytes."""

_DEEP_GREY = {"I;16", "I;16B", "I;16L", "I", "F"}


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Decode a raster file: (H, W) for grey, (H, W, 3) for colour; alpha is dropped, EXIF orientation applied."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(path) as picture:
                _refuse_bomb(picture.size)
                if getattr(picture, "n_frames", 1) > 1 and picture.format == "TIFF":
                    raise ImageError(
                        f"the TIFF has {picture.n_frames} pages, expected one",  # type: ignore[attr-defined]
                        remedy="Write one file a page.",
                    )
                array = _pixels(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise ImageError(
            f"the content is no image that Pillow knows (it starts with {_first_bytes(path)!r})",
            remedy="Check that the download is complete and that the extension is right.",
        ) from None
    except PillowImage.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels", remedy="Resize the picture first.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ImageError(
            f"the file is truncated or damaged ({error})", remedy="Copy it again from its source."
        ) from error
    full_scale = (0.0, 255.0) if array.dtype == np.uint8 else (float(array.min()), float(array.max()))
    return Image(array=array, kind="plane", value_range=full_scale)


def _pixels(picture: PillowImage.Image) -> NDArray[Any]:
    if picture.mode in _DEEP_GREY:
        array = np.asarray(picture)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))
    if picture.mode in {"L", "LA", "La"}:
        return np.asarray(picture.getchannel("L") if picture.mode != "L" else picture)
    return np.asarray(picture.convert("RGBA").convert("RGB") if picture.mode == "P" else picture.convert("RGB"))


def _refuse_bomb(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f"{size[0]} x {size[1]} pixels are more than the limit of {MAX_PIXELS:,}",
            remedy="Resize the picture first.",
        )


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)

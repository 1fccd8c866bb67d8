"""PNG, JPEG, BMP, WebP and TIFF of up to 8 bits through Pillow; grey and 16-bit PNG by faster or deeper decoders."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageOps, UnidentifiedImageError
from PIL import Image as PillowImage

from featcache.errors import ImageError
from featcache.imaging import png
from featcache.records import Image, Selector

__all__ = ["MAX_PIXELS", "load", "picture", "upright"]

MAX_PIXELS = 200_000_000
"""Larger pictures are refused before they are decoded: a small file can unpack to tens of gigabytes."""

_COLOURS = {2, 4, 6}
"""PNG colour types RGB, grey with alpha, RGB with alpha."""
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda array: np.rot90(array, 2),
    4: np.flipud,
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: np.rot90(array, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""EXIF orientation to upright."""
_DEEP_GREY = {"I;16", "I;16B", "I;16L", "I", "F"}


def load(path: Path, selector: Selector = Selector()) -> Image:  # noqa: B008 - frozen
    """Decode a raster file: (H, W) for grey, (H, W, 3) for colour; alpha is dropped, EXIF orientation applied.

    The content decides which format it is, not the extension. 8 and 16 bits stay what they are.

    Raises
    ------
    ImageError
        If the content is no image, is truncated or damaged, has several pages or more than :data:`MAX_PIXELS`.
    """
    with path.open("rb") as file:
        start = file.read(len(png.SIGNATURE))
        content = start + file.read() if start == png.SIGNATURE else None
    array = _with_pillow(path) if content is None else _png(path, content)
    return Image(array=array, kind="plane", value_range=_full_scale(array))


def _full_scale(array: NDArray[Any]) -> tuple[float, float]:
    if array.dtype == np.uint8 or array.ndim == 3:
        return 0.0, float(np.iinfo(array.dtype).max)
    return float(array.min()), float(array.max())


def _png(path: Path, content: bytes) -> NDArray[Any]:
    chunks = png.parse(content)
    _refuse_bomb((chunks.width, chunks.height))
    if png.is_plain_grey(chunks):
        array = png.decode_grey(chunks)
        if array is not None:
            return array
    if chunks.depth == 16 and chunks.colour in _COLOURS:  # Pillow would keep the upper 8 bits
        return _deep_png(content)
    return _with_pillow(path, content)


def _deep_png(content: bytes) -> NDArray[Any]:
    import imagecodecs

    try:
        array: NDArray[Any] = imagecodecs.png_decode(content)
        with PillowImage.open(io.BytesIO(content)) as picture:
            orientation: int = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (imagecodecs.PngError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"the file is truncated or damaged ({error})", remedy="Copy it again from its source."
        ) from error
    array = array[..., 0] if array.shape[-1] == 2 else array[..., :3]
    return np.ascontiguousarray(upright(array, orientation))


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn a picture as its EXIF or TIFF orientation says; a view where possible."""
    turn = _UPRIGHT.get(orientation)
    return array if turn is None else turn(array)


def _with_pillow(path: Path, content: bytes | None = None) -> NDArray[Any]:
    return picture(path if content is None else io.BytesIO(content), 0, _first_bytes(path))


def picture(source: Path | io.BytesIO, page: int, start: bytes) -> NDArray[Any]:
    """Decode one page with Pillow.

    Parameters
    ----------
    source
        The file, or its content.
    page
        Its number; 0 for what has one.
    start
        The first bytes, for the message where the content is no image.

    Raises
    ------
    ImageError
        If the content is no image, damaged or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(source) as opened:
                opened.seek(page)
                _refuse_bomb(opened.size)
                return _pixels(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise ImageError(
            f"the content is no image that Pillow knows (it starts with {start!r})",
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

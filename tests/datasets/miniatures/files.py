"""What the miniatures are made of: small pictures, volumes and tables."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def write_png(path: Path, pixels: NDArray[np.uint8] | None = None, seed: int = 0) -> None:
    """A grey PNG or JPEG of 12 x 10 pixels of noise, or the pixels that are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng([seed, zlib.crc32("/".join(path.parts[-4:]).encode())]).integers(
            0, 256, (12, 10), dtype=np.uint8
        )
    Image.fromarray(pixels).save(path)


def write_mask(path: Path, inside: int = 255) -> None:
    """A PNG of 12 x 10 pixels whose middle is ``inside`` and whose border is 0."""
    pixels = np.zeros((12, 10), np.uint8)
    pixels[3:9, 3:7] = inside
    write_png(path, pixels)


def write_volume(
    path: Path,
    shape: tuple[int, ...] = (8, 7, 6),
    *,
    values: int = 0,
    orientation: str = "LPS",
    seed: int = 0,
) -> None:
    """An int16 NIfTI volume of noise, or with ``values`` a label volume whose first and last slices are empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    data = rng.integers(-200, 200, shape).astype(np.int16)
    if values:
        data = (np.arange(np.prod(shape)).reshape(shape) % (values + 1)).astype(np.int16)
        data[:, :, 0] = data[:, :, -1] = 0
    affine = np.diag([*(-1.0 if axis in "LPI" else 1.0 for axis in orientation), 1.0])
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


def write_lines(path: Path, lines: list[str], *, bom: bool = False, newline: str = "\n") -> None:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = newline.join(lines) + newline
    path.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))

"""From decoded pixels to what an encoder sees: one hashable specification, one function that applies it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError
from featcache.registry import nearest

if TYPE_CHECKING:
    import torch

__all__ = ["PREPROCESS_VERSION", "PRESETS", "Preprocess", "preset", "to_tensor"]

PREPROCESS_VERSION = 1
"""Semantic version of :func:`to_tensor`, part of the cache key."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resize = Literal["shortest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
Intensity = Literal["source", "image"]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Everything between the decoded plane and the normalised tensor. All of it is in the cache key."""

    resize: Resize
    """``shortest``: keep the aspect ratio, shortest side to ``resize_to``. ``squash``: to a square."""
    resize_to: int
    """Pixels of the (shortest) side after resizing."""
    crop: int
    """Pixels of the centre crop: the encoder's input size."""
    mean: tuple[float, float, float]
    """Subtracted from each RGB channel, on the scale 0 to 1."""
    std: tuple[float, float, float]
    """Divides each RGB channel."""
    intensity: Intensity = "source"
    """``source``: the file's range to 0..1 (8-bit full scale; otherwise the minimum and maximum of the whole
    image file or volume). ``image``: minimum and maximum of the cropped plane to 0..1, as the study does."""
    interpolation: Interpolation = "bicubic"
    """Of the resizing."""
    antialias: bool = True
    """Low-pass before reducing, as Pillow does."""
    version: int = PREPROCESS_VERSION
    """Semantic version of the code that applies this."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, for the cache key."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class EncoderInput(Protocol):
    """What a preset needs to know of an encoder; :class:`featcache.models.ModelSpec` has it."""

    @property
    def image_size(self) -> int:
        """Native input size in pixels."""

    @property
    def resize(self) -> Resize:
        """How its authors resize."""

    @property
    def crop_fraction(self) -> float:
        """Input size as a fraction of the resized side."""

    @property
    def interpolation(self) -> Interpolation:
        """Of its authors' resizing."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Per channel, scale 0 to 1."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Per channel."""


def _model(native: EncoderInput, size: int) -> Preprocess:
    return Preprocess(
        resize=native.resize,
        resize_to=round(size / native.crop_fraction),
        crop=size,
        mean=native.mean,
        std=native.std,
        interpolation=native.interpolation,
    )


def _dinov2(native: EncoderInput, size: int) -> Preprocess:
    return Preprocess("shortest", round(size * 256 / 224), size, IMAGENET_MEAN, IMAGENET_STD)


def _radiology(native: EncoderInput, size: int) -> Preprocess:
    return Preprocess("squash", round(size * 256 / 224), size, IMAGENET_MEAN, IMAGENET_STD, intensity="image")


PRESETS: dict[str, Callable[[EncoderInput, int], Preprocess]] = {
    "model": _model,
    "dinov2": _dinov2,
    "radiology": _radiology,
}
"""Named recipes: what the checkpoint's authors do; DINOv2's evaluation; the radiology study (arXiv 2312.02366)."""


def preset(name: str, native: EncoderInput, image_size: int | None = None) -> Preprocess:
    """Resolve a named recipe for an encoder.

    Parameters
    ----------
    name
        ``model``, ``dinov2`` or ``radiology``.
    native
        The encoder's own input.
    image_size
        Another input size in pixels; the resized side grows in proportion.

    Raises
    ------
    ConfigurationError
        For an unknown name or a size below 1.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"unknown preprocessing {name!r}{nearest(name, PRESETS)}")
    size = native.image_size if image_size is None else image_size
    if size < 1:
        raise ConfigurationError(f"image size {size} is not positive")
    return PRESETS[name](native, size)


def to_tensor(plane: NDArray[Any], value_range: tuple[float, float], spec: Preprocess) -> torch.Tensor:
    """Apply a specification to one plane.

    Parameters
    ----------
    plane
        (H, W) or (H, W, 3), any real dtype.
    value_range
        The range of the file the plane comes from (:attr:`featcache.records.Image.value_range`).
    spec
        The recipe.

    Returns
    -------
    Tensor
        (3, crop, crop) float32, normalised.
    """
    import torch

    if plane.dtype == np.uint8 and spec.antialias:
        pixels = _resize_bytes(plane, spec)
    else:
        # To 0..255 in float64 first: 32-bit integers lose digits in float32, and resizing wants bounds to clamp to.
        low, high = value_range
        scale = 255.0 / (high - low) if high > low else 0.0
        pixels = _resize_floats(((plane.astype(np.float64) - low) * scale).astype(np.float32), spec)
    pixels = _centre_crop(pixels, spec.crop).to(torch.float32)
    low, high = (0.0, 255.0) if spec.intensity == "source" else (float(pixels.min()), float(pixels.max()))
    pixels = (pixels - low) / (high - low) if high > low else torch.zeros_like(pixels)
    mean = torch.tensor(spec.mean)[:, None, None]
    std = torch.tensor(spec.std)[:, None, None]
    return (pixels - mean) / std


def _resize_bytes(plane: NDArray[np.uint8], spec: Preprocess) -> torch.Tensor:
    """Pillow's resizing, which is what most checkpoints' authors used: (C, h, w) uint8."""
    import torch
    from PIL import Image

    height, width = _resized(plane.shape, spec)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    resized = Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), filters[spec.interpolation])
    pixels = torch.from_numpy(np.array(resized))
    return pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)


def _resize_floats(plane: NDArray[np.float32], spec: Preprocess) -> torch.Tensor:
    """The same filters in float32, clamped to 0..255: (C, h, w)."""
    import torch

    pixels = torch.from_numpy(plane)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)
    resized = torch.nn.functional.interpolate(
        pixels[None],
        size=_resized(plane.shape, spec),
        mode=spec.interpolation,
        antialias=spec.antialias,
        align_corners=False,
    )
    return resized[0].clamp_(0.0, 255.0)


def _resized(size: tuple[int, ...], spec: Preprocess) -> tuple[int, int]:
    height, width = size[:2]
    if spec.resize == "squash":
        return spec.resize_to, spec.resize_to
    # The longer side is truncated, as torchvision and the checkpoints' own processors do.
    if height <= width:
        return spec.resize_to, max(spec.crop, int(spec.resize_to * width / height))
    return max(spec.crop, int(spec.resize_to * height / width)), spec.resize_to


def _centre_crop(pixels: torch.Tensor, size: int) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels[..., top : top + size, left : left + size]

"""From decoded pixels to what an encoder sees: one hashable specification, one function that applies it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError
from featcache.registry import nearest

if TYPE_CHECKING:
    import torch

__all__ = [
    "CHOICES",
    "PREPROCESS_VERSION",
    "Preprocess",
    "centre_crop",
    "finished",
    "resized",
    "resized_floats",
    "to_tensor",
]

PREPROCESS_VERSION = 1
"""Semantic version of :func:`to_tensor`, part of the cache key."""

Resize = Literal["shortest", "squash", "letterbox"]
Interpolation = Literal["bicubic", "bilinear"]
Intensity = Literal["source", "image", "zscore"]
Clip = Literal["none", "window", "dicom-window", "range", "percentile", "percentile-zero"]
Scope = Literal["plane", "volume"]
Composition = Literal["grey", "neighbours", "windows"]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Everything between the decoded plane and the normalised tensor. All of it is in the cache key."""

    resize: Resize
    """``shortest``: keep the aspect ratio, shortest side to ``resize_to``. ``squash``: to a square. ``letterbox``: keep
    the aspect ratio, longest side to ``resize_to``, the rest black."""
    resize_to: int
    """Pixels of the (shortest, longest) side after resizing."""
    crop: int
    """Pixels of the centre crop: the encoder's input size."""
    mean: tuple[float, float, float]
    """Subtracted from each RGB channel, on the scale 0 to 1."""
    std: tuple[float, float, float]
    """Divides each RGB channel."""
    intensity: Intensity = "source"
    """``source``: the file's range to 0..1 (8-bit full scale; otherwise the minimum and maximum of the whole
    image file or volume; after clipping, the bounds that were clipped to). ``image``: minimum and maximum of the
    cropped plane to 0..1, as the study does. ``zscore``: minus the mean, by the standard deviation of the plane or
    volume; the encoder's own mean and std are not applied."""
    interpolation: Interpolation = "bicubic"
    """Of the resizing."""
    antialias: bool = True
    """Low-pass before reducing, as Pillow does."""
    version: int = PREPROCESS_VERSION
    """Semantic version of the code that applies this."""
    clip: Clip = "none"
    """``window``: to CT windows of ``clip_at``. ``dicom-window``: to the first one that the file's header recommends.
    ``range``: to its bounds. ``percentile``: to these percentiles.
    ``percentile-zero``: above the upper one clipped, at or below the lower one set to 0 (the study's brain tumours)."""
    clip_at: tuple[float, ...] = ()
    """Centre and width of one window or of three; lower and upper bound; lower and upper percentile."""
    scope: Scope = "plane"
    """Over what percentiles, mean and standard deviation are taken: the plane, or the whole volume."""
    rgb: Composition = "grey"
    """The three channels: the plane three times; the slices before, at and after it; one window of ``clip_at`` each."""

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ConfigurationError(
                    f"{value!r} is no {name}{nearest(str(value), choices)}", remedy=f"Known: {', '.join(choices)}."
                )
        if not 1 <= self.crop <= self.resize_to:
            raise ConfigurationError(
                f"a crop of {self.crop} out of {self.resize_to} pixels", remedy="1 <= crop <= resize_to."
            )
        wanted = {"none": 0, "dicom-window": 0, "window": 6 if self.rgb == "windows" else 2}.get(self.clip, 2)
        if len(self.clip_at) != wanted or (self.rgb == "windows" and self.clip != "window"):
            raise ConfigurationError(
                f"clip={self.clip} with rgb={self.rgb} does not go with {len(self.clip_at)} numbers in clip_at",
                remedy="Three windows (six numbers) go with rgb=windows, one window with any other.",
            )
        _refuse_bounds(self.clip, self.clip_at)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, for the cache key; the last four only where they are not the default."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in plain.items() if name not in _LATER or value != _LATER[name]}


CHOICES: dict[str, tuple[str, ...]] = {
    "clip": get_args(Clip),
    "intensity": get_args(Intensity),
    "interpolation": get_args(Interpolation),
    "resize": get_args(Resize),
    "rgb": get_args(Composition),
    "scope": get_args(Scope),
}
"""What a field may be."""

_LATER: dict[str, Any] = {"clip": "none", "clip_at": [], "scope": "plane", "rgb": "grey"}
"""Fields that came after the first stores, with the values that those were made with."""


def _refuse_bounds(clip: Clip, at: tuple[float, ...]) -> None:
    if not np.isfinite(at).all():
        raise ConfigurationError(f"clip={clip}: {at} are not all finite numbers", remedy="Give two numbers.")
    if clip == "window" and not min(at[1::2]) > 0:
        raise ConfigurationError(f"a window of width {min(at[1::2]):g} shows nothing", remedy="Widths are above 0.")
    if clip in ("range", "percentile", "percentile-zero") and not at[0] < at[1]:
        raise ConfigurationError(
            f"clip={clip}: the bounds {at[0]:g} and {at[1]:g} are not in order", remedy="The lower one comes first."
        )
    if clip in ("percentile", "percentile-zero") and not 0 <= at[0] < at[1] <= 100:
        raise ConfigurationError(f"clip={clip}: {at[0]:g} and {at[1]:g} are no percentiles", remedy="From 0 to 100.")


def to_tensor(plane: NDArray[Any], value_range: tuple[float, float], spec: Preprocess) -> torch.Tensor:
    """Apply a specification that neither clips nor composes to one plane; :func:`featcache.imaging.prepare` does all.

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
    return finished(centre_crop(resized(plane, value_range, spec), spec.crop), spec)


def resized(plane: NDArray[Any], value_range: tuple[float, float], spec: Preprocess) -> torch.Tensor:
    """Resize a plane that is neither clipped nor composed: (C, h, w), uint8 or float32, 0 to 255."""
    if plane.dtype == np.uint8 and spec.antialias:
        return _resize_bytes(plane, spec)
    # To 0..255 in float64 first: 32-bit integers lose digits in float32, and resizing wants bounds to clamp to.
    low, high = value_range
    scale = 255.0 / (high - low) if high > low else 0.0
    return resized_floats(((plane.astype(np.float64) - low) * scale).astype(np.float32), spec)


def finished(pixels: torch.Tensor, spec: Preprocess) -> torch.Tensor:
    """Scale cropped (C, S, S) pixels of 0..255 to 0..1 and normalise; one channel becomes three."""
    import torch

    pixels = pixels.to(torch.float32)
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
    return _boxed(pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0), spec)


def resized_floats(plane: NDArray[np.float32], spec: Preprocess) -> torch.Tensor:
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
    return _boxed(resized[0].clamp_(0.0, 255.0), spec)


def _resized(size: tuple[int, ...], spec: Preprocess) -> tuple[int, int]:
    height, width = size[:2]
    if spec.resize == "squash":
        return spec.resize_to, spec.resize_to
    if spec.resize == "letterbox":
        scale = spec.resize_to / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
    # The longer side is truncated, as torchvision and the checkpoints' own processors do.
    if height <= width:
        return spec.resize_to, max(spec.crop, int(spec.resize_to * width / height))
    return max(spec.crop, int(spec.resize_to * height / width)), spec.resize_to


def centre_crop(pixels: torch.Tensor, size: int) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels[..., top : top + size, left : left + size]


def _boxed(pixels: torch.Tensor, spec: Preprocess) -> torch.Tensor:
    """Bars on both sides of what keeps its aspect ratio in a square: black, also if the image's minimum is black."""
    import torch

    if spec.resize != "letterbox":
        return pixels
    height, width = pixels.shape[-2:]
    top, left = (spec.resize_to - height) // 2, (spec.resize_to - width) // 2
    sides = (left, spec.resize_to - width - left, top, spec.resize_to - height - top)
    return torch.nn.functional.pad(pixels, sides, value=float(pixels.min()) if spec.intensity == "image" else 0.0)

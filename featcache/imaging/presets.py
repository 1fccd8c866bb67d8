"""Named recipes, and changes to them in a few words: ``radiology,window=lung``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Protocol, get_args

from featcache.errors import ConfigurationError
from featcache.imaging.intensity import WINDOWS
from featcache.imaging.preprocess import Composition, Intensity, Interpolation, Preprocess, Resize, Scope
from featcache.registry import nearest

__all__ = ["PRESETS", "preset"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class EncoderInput(Protocol):
    """What a preset needs to know of an encoder; :class:`featcache.models.ModelSpec` has it."""

    @property
    def image_size(self) -> int:
        """Native input size in pixels."""

    @property
    def resize(self) -> Literal["shortest", "squash"]:
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


def _radiology_whole(native: EncoderInput, size: int) -> Preprocess:
    return Preprocess("squash", size, size, IMAGENET_MEAN, IMAGENET_STD, intensity="image")


PRESETS: dict[str, Callable[[EncoderInput, int], Preprocess]] = {
    "model": _model,
    "dinov2": _dinov2,
    "radiology": _radiology,
    "radiology-linear": _radiology_whole,
    "radiology-seg": _radiology_whole,
}
"""Named recipes: what the checkpoint's authors do; DINOv2's evaluation; the radiology study (arXiv 2312.02366) for kNN,
for linear heads and for segmentation. ``auto`` is one of them, chosen by modality."""

_SIZES = {"radiology-seg": 448}
"""Input sizes of recipes that do not take the encoder's own."""


def preset(
    text: str, native: EncoderInput, image_size: int | None = None, *, modality: str | None = None, deep: bool = False
) -> Preprocess:
    """Resolve a named recipe for an encoder, with changes.

    Parameters
    ----------
    text
        A name of :data:`PRESETS` or ``auto``, then changes after commas: ``window=lung`` (or ``window=40/400``; three
        joined by ``+`` make the three channels), ``clip=-1024:600``, ``percentile=5:95``, ``percentile-zero=5:95``,
        ``scope=volume``, ``intensity=source|image|zscore``, ``rgb=neighbours``, ``resize=letterbox``,
        ``antialias=off``, ``interpolation=bilinear``.
    native
        The encoder's own input.
    image_size
        Another input size in pixels; the resized side grows in proportion.
    modality
        The dataset's, for ``auto``: CT gets the soft-tissue window, MRI the 0.5th to 99.5th percentile of its volume,
        all else the model's own recipe.
    deep
        Whether the dataset has files of more than 8 bits, for ``auto``: 8-bit files hold no Hounsfield units.

    Raises
    ------
    ConfigurationError
        For an unknown name or change, or a size below 1.

    Examples
    --------
    >>> from featcache.models import resolve_model
    >>> spec = preset("radiology,window=lung", resolve_model("pixels"))
    >>> spec.clip, spec.clip_at, spec.resize
    ('window', (-600.0, 1500.0), 'squash')
    """
    name, *changes = [part.strip() for part in text.split(",")]
    if name == "auto":
        name = "model"
        if deep:
            changes = [*_BY_MODALITY.get((modality or "").upper(), ()), *changes]
    if name not in PRESETS:
        raise ConfigurationError(f"unknown preprocessing {name!r}{nearest(name, [*PRESETS, 'auto'])}")
    size = _SIZES.get(name, native.image_size) if image_size is None else image_size
    if size < 1:
        raise ConfigurationError(f"image size {size} is not positive")
    spec = PRESETS[name](native, size)
    for change in changes:
        spec = _changed(spec, change)
    return spec


_BY_MODALITY = {
    "CT": ("window=soft-tissue",),
    "MRI": ("percentile=0.5:99.5", "scope=volume"),
    "MR": ("percentile=0.5:99.5", "scope=volume"),
}

_CHOICES: dict[str, tuple[str, ...]] = {
    "intensity": get_args(Intensity),
    "interpolation": get_args(Interpolation),
    "resize": get_args(Resize),
    "rgb": tuple(name for name in get_args(Composition) if name != "windows"),
    "scope": get_args(Scope),
}


def _changed(spec: Preprocess, change: str) -> Preprocess:
    name, _, value = change.partition("=")
    if name in _CHOICES and value in _CHOICES[name]:
        if name == "resize" and value == "letterbox":
            return replace(spec, resize="letterbox", resize_to=spec.crop)
        options: dict[str, Any] = {name: value}
        return replace(spec, **options)
    if name == "antialias" and value in ("on", "off"):
        return replace(spec, antialias=value == "on")
    if name == "window":
        windows = [_window(part) for part in value.split("+")]
        if len(windows) in (1, 3):
            flat = tuple(number for window in windows for number in window)
            return replace(spec, clip="window", clip_at=flat, rgb="windows" if len(windows) == 3 else spec.rgb)
    if name in ("clip", "percentile", "percentile-zero"):
        low, high = _bounds(name, value)
        kind: Any = "range" if name == "clip" else name
        return replace(spec, clip=kind, clip_at=(low, high))
    known = ", ".join([*_CHOICES, "antialias", "window", "clip", "percentile", "percentile-zero"])
    allowed = (
        f"; {name} is one of {', '.join(_CHOICES[name])}" if name in _CHOICES else nearest(name, known.split(", "))
    )
    raise ConfigurationError(
        f"{change!r} changes no preprocessing{allowed}", remedy=f"Known: {known}; written name=value."
    )


def _window(text: str) -> tuple[float, float]:
    if text in WINDOWS:
        return WINDOWS[text]
    try:
        centre, width = (float(part) for part in text.split("/"))
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is no window{nearest(text, WINDOWS)}",
            remedy=f"Known: {', '.join(WINDOWS)}; or centre/width in Hounsfield units: 40/400.",
        ) from None
    if width <= 0:
        raise ConfigurationError(f"a window of width {width:g} shows nothing", remedy="Write centre/width: 40/400.")
    return centre, width


def _bounds(name: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigurationError(f"{name}={text} is not of the form {name}=low:high") from None
    if not low < high or (name != "clip" and not 0 <= low < high <= 100):
        raise ConfigurationError(f"{name}={text}: the bounds are not in order, or no percentiles")
    return low, high

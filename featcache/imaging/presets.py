"""Named recipes, and changes to them in a few words: ``radiology,window=lung``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Protocol

from featcache.errors import ConfigurationError
from featcache.imaging.intensity import WINDOWS
from featcache.imaging.preprocess import CHOICES, Interpolation, Preprocess
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
        A name of :data:`PRESETS` or ``auto``, then changes after commas, each at most once: ``window=lung``, or
        width/level ``window=400/40``, or the file's own ``window=dicom``; three joined by ``+`` make the three
        channels; instead of a window ``clip=-1024:600``, ``percentile=5:95`` or ``percentile-zero=5:95``. Further
        ``scope=volume``, ``intensity=source|image|zscore``, ``rgb=neighbours``, ``resize=letterbox``,
        ``antialias=off``, ``interpolation=bilinear``.
    native
        The encoder's own input.
    image_size
        Another input size in pixels; the resized side grows in proportion.
    modality
        The dataset's, for ``auto``: CT gets the soft-tissue window, MRI (MR) the 0.5th to 99.5th percentile of its
        volume, X-ray (CR, DX, MG, RG) the model's own recipe with the range of the file.
    deep
        Whether the dataset has files of more than 8 bits, for ``auto``: others get the model's own recipe, whatever
        their modality.

    Raises
    ------
    ConfigurationError
        For an unknown name or change, changes that contradict each other, a size below 1, or ``auto`` for deep files
        of several modalities or an unknown one.

    Examples
    --------
    >>> from featcache.models import resolve_model
    >>> spec = preset("radiology,window=lung", resolve_model("pixels"))
    >>> spec.clip, spec.clip_at, spec.resize
    ('window', (-600.0, 1500.0), 'squash')
    """
    name, *changes = [part.strip() for part in text.split(",")]
    _refuse_contradictions(changes)
    if name == "auto":
        name = "model"
        changes = [*(_by_modality(modality) if deep else ()), *changes]
    if name not in PRESETS:
        raise ConfigurationError(
            f"unknown preprocessing {name!r}{nearest(name, [*PRESETS, 'auto'])}",
            remedy=f"Known: {', '.join([*PRESETS, 'auto'])}.",
        )
    size = _SIZES.get(name, native.image_size) if image_size is None else image_size
    if size < 1:
        raise ConfigurationError(f"image size {size} is not positive", remedy="Give pixels, for example 224.")
    spec = PRESETS[name](native, size)
    for change in changes:
        spec = _changed(spec, change)
    return spec


_BY_MODALITY: dict[str, tuple[str, ...]] = {
    "CT": ("window=soft-tissue",),
    "MRI": ("percentile=0.5:99.5", "scope=volume"),
    "MR": ("percentile=0.5:99.5", "scope=volume"),
    **dict.fromkeys(("X-RAY", "CR", "DX", "MG", "RG"), ()),
}
"""By the words of the registry and the modality codes of DICOM."""

_CLIPS = ("window", "clip", "percentile", "percentile-zero")
_FIELDS = {name: choices for name, choices in CHOICES.items() if name != "clip"} | {"antialias": ("on", "off")}


def _by_modality(modality: str | None) -> tuple[str, ...]:
    try:
        return _BY_MODALITY[(modality or "").upper()]
    except KeyError:
        raise ConfigurationError(
            f"preprocessing 'auto' goes by the dataset's modality, and that is {modality or 'unknown'!r}",
            remedy="Say it yourself: model,window=soft-tissue for CT; model,percentile=0.5:99.5,scope=volume for MRI; "
            "model for X-ray.",
        ) from None


def _refuse_contradictions(changes: list[str]) -> None:
    names = ["window" if name in _CLIPS else name for name in (change.partition("=")[0] for change in changes)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        said = [change for change, name in zip(changes, names, strict=True) if name == twice]
        raise ConfigurationError(
            f"preprocessing says {' and '.join(said)}", remedy="Keep one of them: they would replace each other."
        )


def _changed(spec: Preprocess, change: str) -> Preprocess:
    name, _, value = change.partition("=")
    if name in _FIELDS and value in _FIELDS[name] and change != "rgb=windows":
        if name == "resize" and value == "letterbox":
            return replace(spec, resize="letterbox", resize_to=spec.crop)
        options: dict[str, Any] = {name: value == "on" if name == "antialias" else value}
        return replace(spec, **options)
    if name == "window":
        return _windowed(spec, value)
    if name in _CLIPS:
        low, high = _bounds(name, value)
        kind: Any = "range" if name == "clip" else name
        return replace(spec, clip=kind, clip_at=(low, high))
    known = [*_FIELDS, *_CLIPS]
    if name in WINDOWS or value in WINDOWS:
        allowed = f"; did you mean 'window={value or name}'?"
    elif name in _FIELDS:
        allowed = f"; {name} is one of {', '.join(choice for choice in _FIELDS[name] if choice != 'windows')}"
    else:
        allowed = nearest(name, known)
    raise ConfigurationError(
        f"{change!r} changes no preprocessing{allowed}", remedy=f"Known: {', '.join(known)}; written name=value."
    )


def _windowed(spec: Preprocess, text: str) -> Preprocess:
    if text == "dicom":
        return replace(spec, clip="dicom-window", clip_at=())
    windows = [_window(part) for part in text.split("+")]
    if len(windows) not in (1, 3):
        raise ConfigurationError(
            f"{len(windows)} windows are neither one nor three",
            remedy="Three make the channels: lung+soft-tissue+bone.",
        )
    flat = tuple(number for window in windows for number in window)
    return replace(spec, clip="window", clip_at=flat, rgb="windows" if len(windows) == 3 else spec.rgb)


def _window(text: str) -> tuple[float, float]:
    """(centre, width) of a name or of ``width/level``, the order in which radiologists say it."""
    if text in WINDOWS:
        return WINDOWS[text]
    try:
        width, centre = (float(part) for part in text.split("/"))
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is no window{nearest(text, [*WINDOWS, 'dicom'])}",
            remedy=f"Known: {', '.join(WINDOWS)}, dicom; or width/level in Hounsfield units: 400/40.",
        ) from None
    if not width > 0:
        raise ConfigurationError(
            f"a window of width {width:g} shows nothing", remedy="Write width/level: 400/40; lung is 1500/-600."
        )
    return centre, width


def _bounds(name: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigurationError(
            f"{name}={text} is not of the form {name}=low:high", remedy="For example clip=-1024:600 or percentile=5:95."
        ) from None
    return low, high

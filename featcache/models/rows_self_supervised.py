"""Rows of encoders trained without labels: DINOv2, DINOv3, RAD-DINO, MAE, MSN."""

from __future__ import annotations

from typing import Literal

from featcache.models.spec import IMAGENET_MEAN, IMAGENET_STD, ModelSpec

__all__ = ["SELF_SUPERVISED"]

_SAFETENSORS = ("model.safetensors", "pytorch_model.bin")
_DINOV2 = "Oquab et al., DINOv2, TMLR 2024 (arXiv 2304.07193)"
_REGISTERS = "Darcet et al., Vision Transformers Need Registers, ICLR 2024 (arXiv 2309.16588)"


def _dinov2(letter: str, size: str, *, dim: int, depth: int, parameters: int, flops: int) -> ModelSpec:
    return ModelSpec(
        name=f"dinov2_vit{letter}14",
        source="dinov2",
        architecture=f"vit_{size}_patch14_dinov2",
        summary=f"DINOv2 ViT-{_letter(letter)}/14, positions resized as the authors do",
        checkpoint=f"facebook/dinov2-{size}",
        files=(f"dinov2_vit{letter}14_pretrain.pth", *_SAFETENSORS),
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
        citation=_DINOV2,
        flops=flops,
    )


def _dinov2_reg(letter: str, size: str, *, dim: int, depth: int, parameters: int, flops: int) -> ModelSpec:
    return ModelSpec(
        name=f"dinov2_vit{letter}14_reg",
        source="dinov2",
        architecture=f"vit_{size}_patch14_reg4_dinov2",
        summary=f"DINOv2 ViT-{_letter(letter)}/14 with 4 registers, positions resized as the authors do",
        checkpoint=f"facebook/dinov2-with-registers-{size}",
        files=(f"dinov2_vit{letter}14_reg4_pretrain.pth", *_SAFETENSORS),
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
        citation=f"{_DINOV2}; {_REGISTERS}",
        flops=flops,
    )


def _letter(letter: str) -> str:
    """The giant's is small, to tell it from others' ViT-G."""
    return letter if letter == "g" else letter.upper()


def _dinov3(
    name: str, kind: Literal["vit", "convnext"], *, dim: int, depth: int | None, parameters: int, flops: int
) -> ModelSpec:
    return ModelSpec(
        name=f"dinov3_{name.replace('-', '_')}",
        source="huggingface",
        architecture=f"dinov3_{kind}",
        summary=f"DINOv3 {name}, web images (LVD-1689M)",
        checkpoint=f"facebook/dinov3-{name}-pretrain-lvd1689m",
        files=_SAFETENSORS,
        licence="DINOv3 License",
        gated=True,
        dim=dim,
        depth=depth,
        patch=16 if kind == "vit" else None,
        image_size=224,
        resize="squash",
        crop_fraction=1.0,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        parameters=parameters,
        float16_safe=True,
        citation="Siméoni et al., DINOv3 (arXiv 2508.10104)",
        flops=flops,
    )


def _image_net(
    name: str, kind: str, *, checkpoint: str, summary: str, citation: str, revision: str | None = None
) -> ModelSpec:
    """MAE and MSN: ViT-L/16, 224 pixels."""
    return ModelSpec(
        name=name,
        source="huggingface",
        architecture=kind,
        summary=summary,
        checkpoint=checkpoint,
        files=_SAFETENSORS,
        licence="Apache-2.0",
        gated=False,
        dim=1024,
        depth=24,
        patch=16,
        image_size=224,
        resize="squash",
        crop_fraction=1.0,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        parameters=303_301_632,
        float16_safe=True,
        citation=citation,
        flops=123_107_377_152,
        revision=revision,
    )


SELF_SUPERVISED: tuple[ModelSpec, ...] = (
    _dinov2("s", "small", dim=384, depth=12, parameters=22_056_192, flops=12_247_123_968),
    _dinov2("b", "base", dim=768, depth=12, parameters=86_579_712, flops=46_322_454_528),
    _dinov2("l", "large", dim=1024, depth=24, parameters=304_367_616, flops=162_023_964_672),
    _dinov2("g", "giant", dim=1536, depth=40, parameters=1_136_479_232, flops=598_780_133_376),
    _dinov2_reg("s", "small", dim=384, depth=12, parameters=22_057_344, flops=12_455_184_384),
    _dinov2_reg("b", "base", dim=768, depth=12, parameters=86_582_016, flops=47_078_313_984),
    _dinov2_reg("l", "large", dim=1024, depth=24, parameters=304_370_688, flops=164_643_569_664),
    _dinov2_reg("g", "giant", dim=1536, depth=40, parameters=1_136_483_840, flops=608_349_044_736),
    _dinov3("vits16", "vit", dim=384, depth=12, parameters=21_596_160, flops=9_396_209_664),
    _dinov3("vits16plus", "vit", dim=384, depth=12, parameters=28_692_480, flops=12_241_520_640),
    _dinov3("vitb16", "vit", dim=768, depth=12, parameters=85_659_648, flops=35_864_285_184),
    _dinov3("vitl16", "vit", dim=1024, depth=24, parameters=303_128_576, flops=125_679_796_224),
    _dinov3("vith16plus", "vit", dim=1280, depth=32, parameters=840_591_360, flops=344_226_693_120),
    _dinov3("vit7b16", "vit", dim=4096, depth=40, parameters=6_716_030_976, flops=2_725_486_657_536),
    _dinov3("convnext-tiny", "convnext", dim=768, depth=None, parameters=27_820_128, flops=8_909_526_528),
    _dinov3("convnext-small", "convnext", dim=768, depth=None, parameters=49_454_688, flops=17_365_888_512),
    _dinov3("convnext-base", "convnext", dim=1024, depth=None, parameters=87_566_464, flops=30_707_410_944),
    _dinov3("convnext-large", "convnext", dim=1536, depth=None, parameters=196_230_336, flops=68_719_795_200),
    ModelSpec(
        name="rad_dino",
        source="huggingface",
        architecture="dinov2",
        summary="RAD-DINO: DINOv2 ViT-B/14 trained on further chest X-rays, 518 pixels",
        checkpoint="microsoft/rad-dino",
        files=_SAFETENSORS,
        licence="MIT",
        gated=False,
        dim=768,
        depth=12,
        patch=14,
        image_size=518,
        resize="shortest",
        crop_fraction=1.0,
        interpolation="bicubic",
        mean=(0.5307, 0.5307, 0.5307),
        std=(0.2583, 0.2583, 0.2583),
        parameters=86_579_712,
        float16_safe=True,
        citation="Pérez-García et al., Exploring scalable medical image encoders beyond text supervision, "
        "Nature Machine Intelligence 2025 (arXiv 2401.10815)",
        flops=303_147_436_032,
    ),
    _image_net(
        "mae_large",
        "vit_mae",
        checkpoint="facebook/vit-mae-large",
        summary="MAE ViT-L/16, ImageNet-1k; the encoder sees every patch",
        citation="He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022 (arXiv 2111.06377)",
    ),
    _image_net(
        "msn_large",
        "vit_msn",
        checkpoint="facebook/vit-msn-large",
        summary="MSN ViT-L/16, ImageNet-1k",
        citation="Assran et al., Masked Siamese Networks for Label-Efficient Learning, ECCV 2022 (arXiv 2204.07141)",
        revision="1c37addaa34368c505a987e93dd7d771eef90b02",
    ),
)

"""The rows against timm's and torchvision's own configurations, closed formulas, and networks without weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file

from featcache.errors import ConfigurationError
from featcache.models import ENCODER_VERSIONS, MODELS, ModelSpec, load_model, resolve_model
from featcache.models.configurations import CONFIGURATIONS, CONFIGURED_CLASSES
from featcache.models.costs import blueprint, count_costs
from featcache.models.spec import Source

NETWORKS = [spec for spec in MODELS if spec.source != "pixels"]
STUDY = {  # PROTOCOL, section 5: name, checkpoint, width
    "dinov2_vits14": ("facebook/dinov2-small", 384),
    "dinov2_vitb14": ("facebook/dinov2-base", 768),
    "dinov2_vitl14": ("facebook/dinov2-large", 1024),
    "dinov2_vitg14": ("facebook/dinov2-giant", 1536),
    "dinov2_vits14_reg": ("facebook/dinov2-with-registers-small", 384),
    "dinov2_vitb14_reg": ("facebook/dinov2-with-registers-base", 768),
    "dinov2_vitl14_reg": ("facebook/dinov2-with-registers-large", 1024),
    "dinov2_vitg14_reg": ("facebook/dinov2-with-registers-giant", 1536),
    "vit_large_in21k": ("google/vit-large-patch16-224", 1024),
    "msn_large": ("facebook/vit-msn-large", 1024),
    "mae_large": ("facebook/vit-mae-large", 1024),
    "clip_large": ("openai/clip-vit-large-patch14", 1024),
    "openclip_huge": ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 1280),
    "biomedclip": ("microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", 512),
    "sam_large": ("facebook/sam-vit-large", 1024),
    "resnet152": ("timm/resnet152.tv_in1k", 2048),
    "densenet201": ("timm/densenet201.tv_in1k", 1920),
    "vgg19": ("timm/vgg19.tv_in1k", 4096),
}


def named(spec: ModelSpec) -> str:
    return spec.name


@pytest.mark.parametrize("name", STUDY)
def test_the_studys_backbones_are_there(name: str) -> None:
    spec = resolve_model(name)
    assert (spec.checkpoint, spec.dim) == STUDY[name]


def test_what_users_want_today_is_there() -> None:
    wanted = [
        *(f"dinov3_{size}" for size in ("vits16", "vits16plus", "vitb16", "vitl16", "vith16plus", "vit7b16")),
        *(f"dinov3_convnext_{size}" for size in ("tiny", "small", "base", "large")),
        *("rad_dino", "medsiglip", "siglip2_base", "siglip2_large", "siglip2_so400m"),
        *("vit_base_in21k", "vit_base_augreg_in21k", "vit_large_augreg_in21k"),
        *("convnext_tiny", "convnext_base", "convnext_large"),
    ]
    assert not [name for name in wanted if name not in MODELS]


@pytest.mark.parametrize("spec", NETWORKS, ids=named)
def test_parameters_and_operations_are_those_of_the_architecture(spec: ModelSpec) -> None:
    found = count_costs(spec)
    assert (found.parameters, found.flops) == (spec.parameters, spec.flops)


def test_operations_are_those_of_the_formula() -> None:
    """Per block of width d and n tokens: 24 n d^2 for the six matrices of a block, 4 n^2 d for the two of attention."""
    for name, prefix in (("dinov2_vitl14", 1), ("vit_large_in21k", 1), ("mae_large", 1), ("dinov2_vitb14_reg", 5)):
        spec = MODELS[name]
        assert spec.dim is not None
        assert spec.depth is not None
        assert spec.patch is not None
        patches = (spec.image_size // spec.patch) ** 2
        tokens = patches + prefix
        block = 24 * tokens * spec.dim**2 + 4 * tokens**2 * spec.dim
        assert spec.flops == spec.depth * block + 2 * patches * 3 * spec.patch**2 * spec.dim, name


@pytest.mark.parametrize(
    "spec", [spec for spec in NETWORKS if spec.source in ("dinov2", "timm") and not spec.random_seed], ids=named
)
def test_width_depth_and_patch_are_those_of_the_architecture(spec: ModelSpec) -> None:
    network = blueprint(spec)
    if spec.patch is not None:
        assert isinstance(network, timm.models.VisionTransformer)
        assert (len(network.blocks), network.patch_embed.patch_size[0]) == (spec.depth, spec.patch)
        assert network.num_features == spec.dim
        return
    with torch.inference_mode():
        found = network(torch.empty(1, 3, spec.image_size, spec.image_size, device="meta"))
    assert found.shape == (1, spec.dim)


@pytest.mark.parametrize(
    "spec",
    [spec for spec in NETWORKS if spec.checkpoint.startswith("timm/") and ".tv_" not in spec.checkpoint],
    ids=named,
)
def test_preprocessing_of_timms_rows_is_timms(spec: ModelSpec) -> None:
    config = timm.get_pretrained_cfg(spec.checkpoint.removeprefix("timm/"))
    assert config.hf_hub_id == spec.checkpoint
    assert (config.mean, config.std) == (spec.mean, spec.std)
    assert (config.input_size[-1], config.crop_pct, config.interpolation) == (
        spec.image_size,
        spec.crop_fraction,
        spec.interpolation,
    )
    assert config.license.lower() == spec.licence.lower()


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet152", torchvision.models.ResNet152_Weights.IMAGENET1K_V1),
        ("densenet201", torchvision.models.DenseNet201_Weights.IMAGENET1K_V1),
        ("vgg19", torchvision.models.VGG19_Weights.IMAGENET1K_V1),
    ],
)
def test_preprocessing_of_torchvisions_networks_is_torchvisions(
    name: str, weights: torchvision.models.WeightsEnum
) -> None:
    spec, preset = MODELS[name], weights.transforms()
    assert (list(spec.mean), list(spec.std)) == (preset.mean, preset.std)
    assert spec.interpolation == preset.interpolation.value
    assert preset.crop_size == [spec.image_size]
    assert preset.resize_size == [round(spec.image_size / spec.crop_fraction)]


@pytest.mark.parametrize("spec", list(MODELS), ids=named)
def test_a_row_is_complete(spec: ModelSpec) -> None:
    assert spec.source in get_args(Source)
    assert spec.summary
    assert spec.licence
    assert spec.dim
    assert spec.flops is not None
    assert spec.parameters is not None
    assert spec.patch is None or spec.image_size % spec.patch == 0
    assert spec.name == "pixels" or spec.citation
    assert not spec.gated or spec.source == "huggingface"
    assert spec.revision is None or len(spec.revision) == 40
    assert resolve_model(spec.name) is spec


@pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")
@pytest.mark.parametrize("spec", [spec for spec in NETWORKS if spec.source == "huggingface"], ids=named)
def test_facts_of_a_row_are_those_of_its_configuration(tmp_path: Path, spec: ModelSpec) -> None:
    """What ``hf:`` says of a folder with the row's ``config.json``, as transformers writes it."""
    config_name, _, _ = CONFIGURED_CLASSES[spec.architecture]
    config = getattr(transformers, config_name)(image_size=spec.image_size, **CONFIGURATIONS[spec.name])
    config.save_pretrained(tmp_path)
    told = resolve_model(f"hf:{tmp_path}")
    assert told.architecture.removesuffix("_vision_model") == spec.architecture
    assert (told.dim, told.image_size) == (spec.dim, spec.image_size)
    if spec.depth is not None:
        assert (told.depth, told.patch) == (spec.depth, spec.patch)


def test_every_source_of_a_row_has_a_builder() -> None:
    assert {spec.source for spec in MODELS} <= set(ENCODER_VERSIONS)


@pytest.mark.parametrize("name", ["densenet201", "convnext_tiny"])
def test_a_row_of_timm_loads_the_whole_checkpoint_and_drops_the_classifier(tmp_path: Path, name: str) -> None:
    """As it is on the hub: under timm's names, with the classifier of ImageNet."""
    torch.manual_seed(0)
    classes = 21841 if "convnext" in name else 1000
    network = timm.create_model(MODELS[name].architecture, pretrained=False, num_classes=classes).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
    encoder = load_model(name, weights=tmp_path, image_size=64)
    assert encoder.arrays["cls"] == (MODELS[name].dim,)
    torch.testing.assert_close(encoder.encode(pixels)["cls"], expected, rtol=1e-5, atol=1e-5)


def test_a_network_known_only_to_its_file_cannot_be_counted() -> None:
    spec = dataclasses.replace(MODELS["rad_dino"], name="hf:someone/something")
    with pytest.raises(ConfigurationError, match="config"):
        count_costs(spec)

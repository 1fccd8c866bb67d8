"""Every kind of tower that open_clip builds against its own ``encode_image``, before and after the projection."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.factory import load_checkpoint
from PIL import Image
from safetensors.torch import save_file

import featcache
from featcache.errors import ConfigurationError, FeatcacheWarning, UnknownNameError, WeightsError
from featcache.imaging.preprocess import to_tensor
from featcache.imaging.presets import preset
from featcache.models import MODELS, load_encoder, load_model, locate_weights, resolve_model
from featcache.probes.blocks import TokenBlocks
from tests.models.test_dinov2 import relative_error

TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
OWN = {"image_size": 64, "layers": 5, "width": 64, "head_width": 16, "patch_size": 16}
TIMM = {"timm_model_pretrained": False, "image_size": 160}
VISION: dict[str, dict[str, Any]] = {
    "transformer": OWN,
    "average after norm": {**OWN, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
    "attention pool": {**OWN, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 6},
    "residual": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "timm token": {**TIMM, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"},
    "timm average": {**TIMM, "timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "mlp"},
    "timm classifier": {**TIMM, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None},
    "timm map": {**TIMM, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
    "timm convolutions": {**TIMM, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
    "timm attention": {**TIMM, "timm_model_name": "test_byobnet", "timm_pool": "rot_attn", "timm_proj": ""},
}
FIXED_SIZE = ("residual", "timm attention")
WIDTH = 48


def random_pixels(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))


PIXELS = random_pixels(64)
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def whole_model(vision: dict[str, Any], *, quick_gelu: bool = False) -> Any:
    """Both towers, every tensor random."""
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(WIDTH, vision, TEXT, quick_gelu=quick_gelu).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.05 * torch.randn(parameter.shape)
    return model


def saved(folder: Path, model: Any, vision: dict[str, Any], *, binary: bool = False, **more: Any) -> Path:
    """A folder as open_clip pushes it to the hub."""
    folder.mkdir(exist_ok=True)
    configuration = {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": TEXT, **more}
    told = {"model_cfg": configuration, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if binary:
        torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("kind", VISION)
def test_the_projected_class_feature_is_open_clips(tmp_path: Path, kind: str) -> None:
    model = whole_model(VISION[kind])
    folder = saved(tmp_path / "mine", model, VISION[kind])
    size = VISION[kind]["image_size"]
    pixels = random_pixels(size)
    with torch.inference_mode():
        expected = model.encode_image(pixels)
    encoder = load_model(f"open_clip:{folder}")
    assert (encoder.spec.name, encoder.spec.dim) == ("open_clip:mine", WIDTH)
    found = encoder.encode(pixels, patches=True)
    assert relative_error(found["cls"], expected) < 1e-5
    step = 32 if kind in ("residual", "timm convolutions", "timm attention") else 16
    assert found["patches"].shape[1:3] == (size // step, size // step)
    assert relative_error(found["patch_mean"], found["patches"].mean(dim=(1, 2))) < 1e-5


@pytest.mark.parametrize("kind", ["transformer", "average after norm", "timm token", "timm average"])
def test_before_the_projection_it_is_what_the_projection_takes(tmp_path: Path, kind: str) -> None:
    model = whole_model(VISION[kind])
    encoder = load_model(f"open_clip:{saved(tmp_path / 'mine', model, VISION[kind])}+pooled")
    assert encoder.spec.name == "open_clip:mine+pooled"
    assert (encoder.spec.mean, encoder.spec.std) == (MEAN, STD)
    pixels = random_pixels(encoder.spec.image_size)
    found = encoder.encode(pixels)["cls"]
    assert found.shape == (2, encoder.spec.dim) == (2, 64)
    with torch.inference_mode():
        tower = model.visual
        again = tower.head(found) if hasattr(tower, "trunk") else found @ tower.proj
        assert relative_error(again, model.encode_image(pixels)) < 1e-5


@pytest.mark.parametrize("pool", ["", "+pooled"])
@pytest.mark.parametrize("kind", ["transformer", "timm token"])
def test_earlier_class_tokens_are_as_wide_as_the_last_as_probes_demand(tmp_path: Path, kind: str, pool: str) -> None:
    folder = saved(tmp_path / "mine", whole_model(VISION[kind]), VISION[kind])
    found = load_model(f"open_clip:{folder}{pool}").encode(random_pixels(VISION[kind]["image_size"]))
    assert TokenBlocks.check({name: rows.numpy() for name, rows in found.items()}).depth == 4


@pytest.mark.parametrize("kind", [kind for kind in VISION if kind not in FIXED_SIZE])
def test_positions_are_resized_as_open_clip_does(tmp_path: Path, kind: str) -> None:
    """Against the network built for 96 pixels, loaded by the library's own function."""
    folder = saved(tmp_path / "mine", whole_model(VISION[kind]), VISION[kind])
    larger = open_clip.CustomTextCLIP(WIDTH, {**VISION[kind], "image_size": 96}, TEXT).eval()
    load_checkpoint(larger, str(folder / "open_clip_model.safetensors"))
    if hasattr(larger.visual, "set_input_size"):
        larger.visual.set_input_size(96)
    pixels = random_pixels(96)
    with torch.inference_mode():
        expected = larger.encode_image(pixels)
    found = load_model(f"open_clip:{folder}", image_size=96).encode(pixels)["cls"]
    assert relative_error(found, expected) < 1e-5


def test_a_network_that_cannot_be_resized_says_its_size(tmp_path: Path) -> None:
    folder = saved(tmp_path / "mine", whole_model(VISION["residual"]), VISION["residual"])
    with pytest.raises(ConfigurationError, match="does not take 96 pixels") as caught:
        load_model(f"open_clip:{folder}", image_size=96)
    assert "64" in str(caught.value.remedy)


def as_transformers(tower: Any, activation: str) -> transformers.CLIPVisionModel:
    """transformers' vision tower with the tensors of open_clip's, one by one."""
    config = transformers.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
        hidden_act=activation,
    )
    model = transformers.CLIPVisionModel(config).eval()
    inner = getattr(model, "vision_model", model)
    inner.embeddings.class_embedding.data = tower.class_embedding.data
    inner.embeddings.patch_embedding.weight.data = tower.conv1.weight.data
    inner.embeddings.position_embedding.weight.data = tower.positional_embedding.data
    pairs = [(inner.pre_layrnorm, tower.ln_pre), (inner.post_layernorm, tower.ln_post)]
    for layer, block in zip(inner.encoder.layers, tower.transformer.resblocks, strict=True):
        pairs += [(layer.layer_norm1, block.ln_1), (layer.layer_norm2, block.ln_2)]
        pairs += [(layer.mlp.fc1, block.mlp.c_fc), (layer.mlp.fc2, block.mlp.c_proj)]
        pairs += [(layer.self_attn.out_proj, block.attn.out_proj)]
        parts = zip(block.attn.in_proj_weight.data.chunk(3), block.attn.in_proj_bias.data.chunk(3), strict=True)
        for name, (weight, bias) in zip("qkv", parts, strict=True):
            linear = getattr(layer.self_attn, f"{name}_proj")
            linear.weight.data, linear.bias.data = weight, bias
    for there, here in pairs:
        there.weight.data, there.bias.data = here.weight.data, here.bias.data
    return model


@pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")
def test_an_open_clip_id_and_an_hf_folder_give_the_same_features(tmp_path: Path) -> None:
    model = whole_model(OWN)
    as_transformers(model.visual, "gelu").save_pretrained(tmp_path / "there")
    there = load_model(f"hf:{tmp_path / 'there'}").encode(PIXELS, patches=True)
    here = load_model(f"open_clip:{saved(tmp_path / 'here', model, OWN)}+pooled").encode(PIXELS, patches=True)
    assert here.keys() == there.keys()
    for name, rows in there.items():
        assert relative_error(here[name], rows) < 1e-5, name


def test_biomedclips_folder_by_its_id_is_as_its_row(tmp_path: Path) -> None:
    """A network of timm in open_clip, the text tower of transformers beside it, in the layout of its repository."""
    vision = VISION["timm token"]
    model = whole_model(vision)
    tensors = {f"visual.{name}": tensor for name, tensor in model.visual.state_dict().items()}
    tensors |= {"text.transformer.embeddings.word_embeddings.weight": torch.zeros(9, 4), "logit_scale": torch.ones([])}
    torch.save(tensors, tmp_path / "open_clip_pytorch_model.bin")
    text = {"hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", "hf_proj_type": "mlp"}
    told = {"model_cfg": {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    row = replace(MODELS["biomedclip"], architecture="test_vit", dim=WIDTH, image_size=160)
    pixels = random_pixels(160)
    of_row = load_encoder(row, locate_weights(row, tmp_path), image_size=160).encode(pixels, patches=True)
    of_id = load_model(f"open_clip:{tmp_path}").encode(pixels, patches=True)
    with torch.inference_mode():
        _, earlier = model.visual.trunk.forward_intermediates(
            pixels, indices=[-2], norm=True, return_prefix_tokens=True
        )
        assert relative_error(of_id["intermediate"][:, -1], model.visual.head(earlier[0][1][:, 0])) < 1e-5
    for name, rows in of_row.items():
        assert relative_error(of_id[name], rows) < 1e-5, name


def test_the_digest_knows_the_weights_and_the_activation(tmp_path: Path) -> None:
    model = whole_model(OWN)
    plain = load_model(f"open_clip:{saved(tmp_path / 'a', model, OWN)}").weights_digest
    binary = saved(tmp_path / "b", model, OWN, binary=True)
    assert load_model(f"open_clip:{binary}", image_size=96).weights_digest == plain
    quick = load_model(f"open_clip:{saved(tmp_path / 'c', model, OWN, quick_gelu=True)}").weights_digest
    model.visual.proj.data += 1
    other = load_model(f"open_clip:{saved(tmp_path / 'd', model, OWN)}").weights_digest
    assert len({plain, quick, other}) == 3


def test_a_configuration_that_changes_is_a_new_identity(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", whole_model(OWN), OWN)
    before = locate_weights(resolve_model(f"open_clip:{folder}")).identity
    saved(folder, whole_model(OWN), OWN, quick_gelu=True)
    assert locate_weights(resolve_model(f"open_clip:{folder}")).identity != before


def test_published_names_say_their_facts() -> None:
    huge = resolve_model("open_clip:ViT-H-14/laion2b_s32b_b79k")
    assert (huge.checkpoint, huge.dim, huge.depth, huge.patch) == (
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        1024,
        32,
        14,
    )
    siglip = resolve_model("open_clip:ViT-B-16-SigLIP/webli")
    assert (siglip.dim, siglip.resize, siglip.mean) == (768, "squash", (0.5, 0.5, 0.5))
    assert resolve_model("open_clip:RN50/openai").dim == 1024
    assert resolve_model("open_clip:ViT-H-14/laion2b_s32b_b79k+pooled").dim == 1280


def test_a_file_of_a_known_network_needs_no_configuration(tmp_path: Path) -> None:
    """The smallest network that open_clip knows by name, 5.6 million parameters in its tower."""
    name = "ViT-S-32-alt"
    configuration = open_clip.get_model_config(name)
    torch.manual_seed(0)
    model = open_clip.CLIP(configuration["embed_dim"], configuration["vision_cfg"], TEXT).eval()
    torch.save({"state_dict": {f"module.{key}": rows for key, rows in model.state_dict().items()}}, tmp_path / "e.pt")
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with pytest.warns(FeatcacheWarning, match="does not say its preprocessing"):
        encoder = load_model(f"open_clip:{name}/{tmp_path / 'e.pt'}")
    assert encoder.spec.name == f"open_clip:{name}"
    with torch.inference_mode():
        assert relative_error(encoder.encode(pixels)["cls"], model.encode_image(pixels)) < 1e-5


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="ViT-B-32"):
        resolve_model("open_clip:ViT-B32")
    with pytest.raises(UnknownNameError, match=r"laion2b_s34b_b79k") as caught:
        resolve_model("open_clip:ViT-B-32/laion2b")
    assert "openai" in str(caught.value.remedy)
    with pytest.raises(WeightsError, match=r"holds no open_clip_config\.json"):
        resolve_model(f"open_clip:{tmp_path}")
    for text in ("{", "[]", '{"model_cfg": {"embed_dim": 4, "vision_cfg": {}}}'):
        (tmp_path / "open_clip_config.json").write_text(text)
        with pytest.raises(WeightsError, match="no configuration of open_clip"):
            resolve_model(f"open_clip:{tmp_path}")


def test_checkpoints_that_do_not_fit_list_what_differs(tmp_path: Path) -> None:
    model = whole_model(OWN)
    folder = saved(tmp_path / "a", model, OWN)
    file = folder / "open_clip_model.safetensors"
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cases = {
        "missing: ln_post.weight": {name: rows for name, rows in whole.items() if name != "visual.ln_post.weight"},
        "surplus: extra": whole | {"visual.extra": torch.zeros(1)},
        "surplus: strange.part": whole | {"strange.part": torch.zeros(1)},
        r"shape of proj: \(64, 7\), expected \(64, 48\)": whole | {"visual.proj": torch.zeros(64, 7)},
        "none of its": {name: rows for name, rows in whole.items() if name.startswith("text.")},
    }
    for message, tensors in cases.items():
        save_file(tensors, file)
        with pytest.raises(WeightsError, match=message):
            load_model(f"open_clip:{folder}")


@pytest.mark.parametrize("size", [(90, 61), (40, 200), (64, 64)])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_preprocessing_is_open_clips_to_one_grey_level(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    folder = saved(tmp_path / "a", whole_model(OWN), OWN)
    told = json.loads((folder / "open_clip_config.json").read_text())
    told["preprocess_cfg"] |= {"resize_mode": mode, "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    spec = resolve_model(f"open_clip:{folder}")
    plane = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    theirs = open_clip.image_transform(
        64, is_train=False, mean=MEAN, std=STD, resize_mode=mode, interpolation="bicubic"
    )(Image.fromarray(plane))
    ours = to_tensor(plane, (0.0, 255.0), preset("model", spec))
    difference = (ours - theirs).abs() * torch.tensor(STD)[:, None, None] * 255
    assert float(difference.max()) <= 1.001


def test_an_id_is_extracted_and_probed_with_all_of_its_blocks(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    """Memory is counted before loading: such a network's is not known then, and that is no error."""
    folder = saved(tmp_path / "mine", whole_model(OWN), OWN)
    report = featcache.extract(f"open_clip:{folder}", "folder", root=image_folder(4), device="cpu", precision="fp32")
    result = featcache.probe("linear", report.store, epochs=1, n_last_blocks=(4,))
    assert [run.parameters["n_last_blocks"] for run in result.runs] == [4]

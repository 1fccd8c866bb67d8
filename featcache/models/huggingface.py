"""Vision encoders of transformers: ``hf:<hub id or local folder>``, in the library's own arithmetic."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featcache.errors import ConfigurationError, FeatcacheWarning, WeightsError
from featcache.models.encoder import INTERMEDIATE_BLOCKS, Encoder, square_grid
from featcache.models.spec import IMAGENET_MEAN, IMAGENET_STD, ModelSpec
from featcache.models.weights import WeightsSource

if TYPE_CHECKING:
    import torch

__all__ = ["build", "describe", "snapshot"]

_FILES = ["config.json", "preprocessor_config.json", "*.safetensors", "*.bin"]


@dataclass(frozen=True, slots=True)
class _Family:
    """How transformers computes one architecture, and where its features are."""

    network: str
    """Class of transformers."""
    norm: str = ""
    """Name of the final norm."""
    interpolate: bool = False
    """Whether the forward pass must be told to interpolate positions."""
    features: Literal["class", "head", "grid", "map"] = "class"
    """``class``: class tokens of the last blocks. ``head``: no class token, the attention head's output. ``grid``:
    neither, the mean of the tokens before the neck. ``map``: a CNN's pooled output and last map."""
    whole: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that make the forward pass see the whole image."""


_CLIP = _Family("CLIPVisionModel", "post_layernorm", interpolate=True)
_SIGLIP = _Family("SiglipVisionModel", "post_layernorm", interpolate=True, features="head")
_SAM = _Family("SamVisionModel", features="grid")
_ARCHITECTURES = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "dinov2": _Family("Dinov2Model", "layernorm"),
    "dinov2_with_registers": _Family("Dinov2WithRegistersModel", "layernorm"),
    "dinov3_convnext": _Family("DINOv3ConvNextModel", features="map"),
    "dinov3_vit": _Family("DINOv3ViTModel", "norm"),
    "sam": _SAM,
    "sam_vision_model": _SAM,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "vit": _Family("ViTModel", "layernorm", interpolate=True),
    "vit_mae": _Family("ViTMAEModel", "layernorm", interpolate=True, whole={"mask_ratio": 0.0}),
    "vit_msn": _Family("ViTMSNModel", "layernorm", interpolate=True),
}
_TOWERS = ("clip", "sam", "siglip")
"""Architectures whose configuration has the vision tower's inside."""

# Tensors of checkpoints that are no part of the vision encoder, and of the encoder that its features do not use.
_OTHER_PARTS = (
    "classifier.",
    "decoder.",
    "logit_bias",
    "logit_scale",
    "mask_decoder.",
    "pooler.",
    "prompt_encoder.",
    "shared_image_embedding.",
    "text_model.",
    "text_projection.",
    "visual_projection.",
)


def describe(name: str) -> ModelSpec:
    """The facts about ``hf:<name>``, from its ``config.json`` and ``preprocessor_config.json``."""
    config = _read_json(name, "config.json")
    if config is None:
        raise WeightsError(
            f"hf:{name}: there is no config.json in a local folder of that name, on the hub or in its cache",
            remedy="Pass hf:FOLDER with config.json and model.safetensors, or an id that this machine can reach.",
        )
    kind = str(config.get("model_type"))
    if kind not in _ARCHITECTURES:
        raise ConfigurationError(
            f"hf:{name}: architecture {kind!r} is not supported", remedy=f"Supported: {', '.join(_ARCHITECTURES)}."
        )
    config = config.get("vision_config", config) if kind in _TOWERS else config
    processor = _read_json(name, "preprocessor_config.json") or {}
    if not processor:
        warnings.warn(
            f"hf:{name} has no preprocessor_config.json: ImageNet's mean and deviation and a squash to the native "
            "size are assumed for the preset `model`",
            FeatcacheWarning,
            stacklevel=2,
        )
    resize, resize_to, crop = _sizes(processor, int(config.get("image_size", 224)), kind)
    if not processor.get("do_normalize", True):
        processor = processor | {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    return ModelSpec(
        name=f"hf:{Path(name).resolve().name if Path(name).is_dir() else name}",
        source="huggingface",
        architecture=kind,
        summary="transformers model",
        checkpoint=str(Path(name).resolve()) if Path(name).is_dir() else name,
        files=("model.safetensors", "pytorch_model.bin"),
        licence="see its model card",
        gated=False,
        dim=int(config["hidden_sizes"][-1] if "hidden_sizes" in config else config["hidden_size"]),
        depth=None if "hidden_sizes" in config else int(config["num_hidden_layers"]),
        patch=None if "hidden_sizes" in config else int(config["patch_size"]),
        image_size=crop,
        resize=resize,
        crop_fraction=crop / resize_to,
        interpolation=_interpolation(name, processor, kind),
        mean=tuple(processor.get("image_mean", IMAGENET_MEAN)),
        std=tuple(processor.get("image_std", IMAGENET_STD)),
        parameters=None,
        float16_safe=True,
        citation="see its model card",
    )


def snapshot(name: str, *, download: bool = True) -> Path:
    """The folder of a model: a local one, the hub's cache, or a download.

    Raises
    ------
    WeightsError
        If it cannot be had.
    """
    import huggingface_hub

    if Path(name).is_dir():
        return Path(name)
    offline = not download or huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_FILES, local_files_only=offline))
    except Exception as error:
        # The hub's client raises errors of several libraries; all mean that the model could not be had.
        raise WeightsError(
            f"hf:{name} is not on this machine and could not be had ({type(error).__name__})",
            remedy="Fetch config.json, preprocessor_config.json and model.safetensors where there is internet, put "
            "them into one folder, and pass hf:FOLDER.",
        ) from error


def build(spec: ModelSpec, source: WeightsSource, image_size: int) -> Encoder:
    """Load a model with transformers; every tensor of the encoder must come from the checkpoint."""
    import torch
    import transformers

    from featcache.models.checkpoints import read_tensors, tensors_digest
    from featcache.models.direct import unrounded
    from featcache.models.runtime import compute_dtype

    family = _ARCHITECTURES[spec.architecture]
    class_name = family.network
    folder = source.path
    if folder is None or not folder.is_dir():
        raise ConfigurationError("hf: models load from a folder", remedy="Pass hf:FOLDER, without --weights.")
    options: dict[str, Any] = {"local_files_only": True, "output_loading_info": True, **family.whole}
    dtype = compute_dtype(source.precision)
    try:
        network, loading = getattr(transformers, class_name).from_pretrained(folder, dtype=dtype, **options)
        _check_loading(loading, folder, class_name)
        used = _used(network) if source.precision == "fp32" else unrounded(read_tensors(folder), _used(network))
        if used is None:
            network, _ = getattr(transformers, class_name).from_pretrained(folder, dtype=torch.float32, **options)
            used = _used(network)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{folder} cannot be loaded: {reason}", remedy="Download it again.") from error
    try:
        return _TransformersEncoder(spec, network, _digest(network, tensors_digest(used)), image_size, family=family)
    except ValueError as error:
        raise ConfigurationError(
            f"{spec.name} does not take {image_size} pixels: {str(error).splitlines()[0]}",
            remedy=f"Its own size is {spec.image_size}.",
        ) from error


def _check_loading(loading: dict[str, Any], folder: Path, class_name: str) -> None:
    """Refuse a checkpoint that lacks tensors of the encoder, or has others."""
    problems = [
        *(f"missing: {name}" for name in loading["missing_keys"] if not name.startswith(_OTHER_PARTS)),
        *(f"surplus: {name}" for name in loading["unexpected_keys"] if not name.startswith(_OTHER_PARTS)),
        *(f"shape of {name}" for name, *_ in loading["mismatched_keys"]),
    ]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in sorted(problems)[:12])
        raise WeightsError(
            f"{folder} does not fit {class_name}, {len(problems)} tensors differ:{listed}",
            remedy="The checkpoint is incomplete, or config.json belongs to another one.",
        )


def _used(network: Any) -> Mapping[str, torch.Tensor]:
    """The tensors that the features depend on."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(_OTHER_PARTS)}


def _digest(network: Any, tensors: str) -> str:
    """SHA-256 of the tensors' digest and of what the configuration says about the arithmetic."""
    told_elsewhere = {
        "_name_or_path",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "id2label",
        "label2id",
    }
    config = {name: value for name, value in network.config.to_dict().items() if name not in told_elsewhere}
    canonical = json.dumps([tensors, config], sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


class _TransformersEncoder(Encoder):
    """Class tokens and patch tokens out of ``hidden_states``, each after the model's final norm, if it has one."""

    def __init__(
        self, spec: ModelSpec, module: torch.nn.Module, weights_digest: str, image_size: int, *, family: _Family
    ) -> None:
        self._family = family
        self._options: dict[str, Any] = {"interpolate_pos_encoding": True} if family.interpolate else {}
        super().__init__(spec, module, weights_digest, image_size)

    def _depth(self) -> int:
        config: Any = self._module.config
        return int(config.num_hidden_layers) if self._family.norm else 1

    def _features(self, pixels: torch.Tensor, layers: int = 1) -> dict[str, torch.Tensor]:
        output = self._module(pixel_values=pixels, output_hidden_states=True, **self._options, **self._order(pixels))
        last = output.hidden_states[-1]
        if self._family.features == "grid":
            mean = last.mean(dim=(1, 2))
            return {"cls": mean, "patch_mean": mean, "patches": last}
        if self._family.features == "map":
            tokens = output.last_hidden_state[:, 1:]
            return {"cls": output.pooler_output, "patch_mean": tokens.mean(dim=1)} | square_grid(tokens)
        # transformers 4 nests the vision tower of CLIP in `vision_model`, transformers 5 does not.
        norm = getattr(self._module, "vision_model", self._module).get_submodule(self._family.norm)
        if self._family.features == "head":
            tokens = norm(last)
            grid = square_grid(_normed(output.hidden_states, norm, layers))
            return {"cls": output.pooler_output, "patch_mean": tokens.mean(dim=1)} | grid
        return self._tokens(output.hidden_states, norm, layers)

    def _tokens(self, states: Sequence[torch.Tensor], norm: torch.nn.Module, layers: int) -> dict[str, torch.Tensor]:
        """Features of a transformer with a class token, and registers maybe."""
        import torch

        kept = min(len(states) - 1, INTERMEDIATE_BLOCKS + 1)
        classes = torch.stack([norm(state[:, 0]) for state in states[-kept:]], dim=1)
        prefix = 1 + int(getattr(self._module.config, "num_register_tokens", 0))
        features = {"cls": classes[:, -1]} | ({"intermediate": classes[:, :-1]} if kept > 1 else {})
        patches = norm(states[-1][:, prefix:])
        grid = square_grid(patches if layers == 1 else _normed([state[:, prefix:] for state in states], norm, layers))
        return features | {"patch_mean": patches.mean(dim=1)} | grid

    def _order(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """A masked autoencoder shuffles its patches by random noise: this noise keeps them in order."""
        import torch

        if "mask_ratio" not in self._family.whole:
            return {}
        config: Any = self._module.config
        patch = int(config.patch_size)
        count = (pixels.shape[-1] // patch) * (pixels.shape[-2] // patch)
        return {"noise": torch.arange(count, dtype=torch.float32, device=pixels.device).expand(len(pixels), -1)}


def _normed(states: Sequence[torch.Tensor], norm: torch.nn.Module, layers: int) -> torch.Tensor:
    """(B, T, D) of the last block after the norm, or (B, layers, T, D) of several."""
    import torch

    normed = [norm(state) for state in states[-layers:]]
    return normed[0] if layers == 1 else torch.stack(normed, dim=1)


def _read_json(name: str, file: str) -> dict[str, Any] | None:
    """A JSON file of a local folder, of the hub's cache, or of the hub; None if it is nowhere."""
    import huggingface_hub

    if Path(name).is_dir():
        path = Path(name) / file
        if not path.is_file():
            return None
    else:
        try:
            path = Path(huggingface_hub.hf_hub_download(name, file))
        except Exception as error:
            if _is_absent(error, name, file):
                return None
            # The hub's client raises errors of several libraries. None of the others means that the file does not
            # exist, and preprocessing made up in its place would give other features.
            raise WeightsError(
                f"hf:{name}: {file} could not be had ({type(error).__name__})",
                remedy="Pass hf:FOLDER with config.json, preprocessor_config.json and model.safetensors.",
            ) from error
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON ({error})", remedy="Download it again.") from error
    return content


def _interpolation(name: str, processor: dict[str, Any], kind: str) -> Literal["bicubic", "bilinear"]:
    """The resampling that a processor asks for; without one, the default of its class in transformers."""
    default = 2 if kind in ("vit", "vit_msn") and processor else 3
    resample = int(processor.get("resample", default))
    if resample not in (2, 3):
        raise ConfigurationError(
            f"hf:{name}: its processor resamples by PIL's method {resample}, which is not supported",
            remedy="Supported: 2 (bilinear) and 3 (bicubic).",
        )
    return "bilinear" if resample == 2 else "bicubic"


def _is_absent(error: Exception, name: str, file: str) -> bool:
    """Whether a repository is known to lack a file: the hub said so now, or when the cache was filled."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return huggingface_hub.try_to_load_from_cache(name, file) is huggingface_hub._CACHED_NO_EXIST
    return isinstance(error, EntryNotFoundError)


def _sizes(processor: dict[str, Any], native: int, kind: str) -> tuple[Any, int, int]:
    """("shortest" or "squash", resized side, input size) of a processor's configuration."""
    size = processor.get("size", native)
    crop = processor.get("crop_size", native)
    cropped = int(crop["height"] if isinstance(crop, dict) else crop)
    if isinstance(size, dict) and "shortest_edge" in size:
        side = int(size["shortest_edge"])
        return "shortest", side, cropped if processor.get("do_center_crop", True) else side
    side = int(size["height"] if isinstance(size, dict) else size)
    if kind.startswith("clip") and not isinstance(size, dict):  # a plain number is CLIP's shortest edge
        return "shortest", side, cropped if processor.get("do_center_crop", True) else side
    return "squash", side, cropped if processor.get("do_center_crop", False) else side

"""What ``open_clip:`` ids mean: a name of the library with a tag or a file, a folder, or a repository of the hub."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcache.errors import (
    ConfigurationError,
    FeatcacheWarning,
    MissingDependencyError,
    UnknownNameError,
    WeightsError,
)
from featcache.models.spec import CLIP_MEAN, CLIP_STD, ModelSpec
from featcache.registry import nearest

__all__ = ["CONFIGURATION", "POOLED", "describe", "library", "model_configuration"]

CONFIGURATION = "open_clip_config.json"
POOLED = "+pooled"
"""End of an id whose ``cls`` is the pooled feature, not yet projected to the space that images and texts share."""
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def describe(name: str) -> ModelSpec:
    """The facts about ``open_clip:<name>``.

    ``cls`` is open_clip's image embedding before it is brought to length 1; where the name ends with ``+pooled``, the
    pooled feature that is projected to it.

    Parameters
    ----------
    name
        ``<model>/<pretrained tag>``, ``<model>/<local file>``, ``<model>`` alone (with ``--weights``), a folder with
        ``open_clip_config.json`` and weights, or the id of such a repository on the hub.

    Raises
    ------
    MissingDependencyError
        If open_clip is not installed.
    UnknownNameError
        If it has no such model or tag.
    WeightsError
        If a folder's or a repository's configuration cannot be had.
    ConfigurationError
        For a preprocessing that featcache does not know.
    """
    plain = name.removesuffix(POOLED)
    spec = _described(plain)
    if plain == name:
        return spec
    width = _pooled_width(model_configuration(spec, Path(spec.checkpoint)))
    summary = "image tower of open_clip, pooled features before the projection"
    return replace(spec, name=f"{spec.name}{POOLED}", dim=width, summary=summary)


def model_configuration(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """The ``model_cfg`` of an id: what the library knows under its name, or the file in the weights' folder."""
    open_clip = library()
    model, _, pretrained = spec.architecture.partition("/")
    if Path(spec.architecture).is_absolute() or model not in open_clip.list_models():
        is_here = (folder / CONFIGURATION).is_file() or Path(spec.architecture).is_absolute()
        return _read(folder / CONFIGURATION if is_here else _from_hub(spec.architecture))[0]
    configuration: dict[str, Any] = open_clip.get_model_config(model)
    tagged = open_clip.get_pretrained_cfg(model, pretrained) if pretrained else {}
    # OpenAI's weights want QuickGELU, also under the names of networks that are built without it.
    return configuration | {"quick_gelu": bool(tagged.get("quick_gelu") or configuration.get("quick_gelu"))}


def _described(name: str) -> ModelSpec:
    open_clip = library()
    if Path(name).is_dir():
        folder = Path(name).resolve()
        told = _read(folder / CONFIGURATION)
        return _spec(f"open_clip:{folder.name}", *told, architecture=str(folder), checkpoint=str(folder), files=_FILES)
    model, slash, pretrained = name.partition("/")
    if model not in open_clip.list_models():
        if not slash:
            raise UnknownNameError(
                f"open_clip has no model {model!r}{nearest(model, open_clip.list_models())}",
                remedy="Known forms: open_clip:<model>/<tag or file>, open_clip:<folder>, open_clip:<hub id>.",
            )
        told = _read(_from_hub(name))
        return _spec(f"open_clip:{name}", *told, architecture=name, checkpoint=name, files=_FILES)
    configuration = open_clip.get_model_config(model)
    if not pretrained or Path(pretrained).exists():
        checkpoint = str(Path(pretrained).resolve()) if pretrained else ""
        usual = _usual_preprocessing(model)
        return _spec(f"open_clip:{model}", configuration, usual, architecture=model, checkpoint=checkpoint)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags:
        raise UnknownNameError(
            f"open_clip:{model} has no weights {pretrained!r}, and there is no such file{nearest(pretrained, tags)}",
            remedy=f"Known: {', '.join(tags) or 'none'}; or open_clip:{model}/FILE.",
        )
    tagged = open_clip.get_pretrained_cfg(model, pretrained)
    owner, repository, file = (*str(tagged.get("hf_hub") or "").split("/", 2), "", "")[:3]
    return _spec(
        f"open_clip:{name}",
        configuration,
        tagged,
        architecture=name,
        checkpoint=f"{owner}/{repository}" if repository else "",
        files=(file,) if file else _FILES,
    )


def _usual_preprocessing(model: str) -> dict[str, Any]:
    """What all published weights of a network agree on; CLIP's, with a warning, where they do not."""
    open_clip = library()
    fields = ("mean", "std", "resize_mode", "interpolation")
    tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    known = [{name: tag[name] for name in fields if name in tag} for tag in tags]
    if known and all(other == known[0] for other in known):
        return known[0]
    warnings.warn(
        f"open_clip:{model}: a file of weights does not say its preprocessing: CLIP's mean and deviation and a resize "
        "of the shortest side are assumed for the preset `model`",
        FeatcacheWarning,
        stacklevel=3,
    )
    return {}


def library() -> Any:
    """open_clip.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import open_clip  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError(
            f"open_clip models need the package open_clip_torch ({error})", remedy="pip install open_clip_torch"
        ) from error
    return open_clip


def _pooled_width(configuration: dict[str, Any]) -> int:
    """Width of the pooled feature before the projection, or after it where the pooling projects."""
    vision = configuration["vision_cfg"]
    if vision.get("timm_model_name"):
        import timm
        import torch

        if vision.get("timm_pool") in ("abs_attn", "rot_attn"):
            return int(configuration["embed_dim"])
        with torch.device("meta"):
            return int(timm.create_model(vision["timm_model_name"], num_classes=0).head_hidden_size)
    if isinstance(vision.get("layers"), list | tuple) or vision.get("attentional_pool"):
        return int(configuration["embed_dim"])
    return int(vision.get("width", 768))


def _spec(
    name: str,
    configuration: dict[str, Any],
    preprocessing: dict[str, Any],
    *,
    architecture: str,
    checkpoint: str = "",
    files: tuple[str, ...] = (),
) -> ModelSpec:
    vision = configuration["vision_cfg"]
    size = vision.get("image_size", 224)
    size = int(size if isinstance(size, int) else size[0])
    resize, interpolation = preprocessing.get("resize_mode", "shortest"), preprocessing.get("interpolation", "bicubic")
    if resize not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise ConfigurationError(
            f"{name} is preprocessed by resize_mode {resize!r} and interpolation {interpolation!r}: not supported",
            remedy="Supported: shortest, squash; bicubic, bilinear.",
        )
    patch, depth = _patch_and_depth(vision)
    return ModelSpec(
        name=name,
        source="open_clip",
        architecture=architecture,
        summary="image tower of open_clip, image embedding after the projection",
        checkpoint=checkpoint,
        files=files,
        licence="see its model card",
        gated=False,
        dim=int(configuration["embed_dim"]),
        depth=depth,
        patch=patch,
        image_size=size,
        resize=resize,
        crop_fraction=1.0,
        interpolation=interpolation,
        mean=tuple(preprocessing.get("mean", CLIP_MEAN)),
        std=tuple(preprocessing.get("std", CLIP_STD)),
        parameters=None,
        float16_safe=True,
        citation="Ilharco et al., OpenCLIP (2021), doi 10.5281/zenodo.5143773; and see its model card",
    )


def _patch_and_depth(vision: dict[str, Any]) -> tuple[int | None, int | None]:
    if vision.get("timm_model_name"):
        import timm
        import torch

        with torch.device("meta"):
            network: Any = timm.create_model(vision["timm_model_name"], num_classes=0)
        if not isinstance(network, timm.models.VisionTransformer):
            return None, None
        return int(network.patch_embed.patch_size[0]), len(network.blocks)
    if not isinstance(vision.get("layers", 12), int):
        return None, None
    return int(vision.get("patch_size", 16)), int(vision.get("layers", 12))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(``model_cfg``, ``preprocess_cfg``) of an ``open_clip_config.json``."""
    if not path.is_file():
        raise WeightsError(
            f"{path.parent} holds no {CONFIGURATION}", remedy=f"Put it beside the weights: {' or '.join(_FILES)}."
        )
    try:
        content = json.loads(path.read_bytes())
        configuration, preprocessing = content["model_cfg"], content.get("preprocess_cfg", {})
        configuration["embed_dim"], configuration["vision_cfg"]["image_size"]
    except (ValueError, LookupError, TypeError) as error:
        raise WeightsError(
            f"{path} is no configuration of open_clip ({type(error).__name__}: {error})", remedy="Download it again."
        ) from error
    return configuration, dict(preprocessing)


def _from_hub(name: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, CONFIGURATION))
    except Exception as error:
        # The hub's client raises errors of several libraries; all mean that the file could not be had.
        raise WeightsError(
            f"open_clip:{name}: open_clip has no model of that name, there is no such folder, and the hub's "
            f"{CONFIGURATION} could not be had ({type(error).__name__})",
            remedy=f"Pass open_clip:FOLDER with {CONFIGURATION} and {' or '.join(_FILES)}.",
        ) from error

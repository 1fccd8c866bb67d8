"""What an encoder costs, counted from its architecture: parameters, and operations an image, without any weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.errors import ConfigurationError
from featcache.models.configurations import CONFIGURATIONS, CONFIGURED_CLASSES
from featcache.models.spec import ModelSpec, Source
from featcache.registry import load_dotted

if TYPE_CHECKING:
    import torch

__all__ = ["Costs", "blueprint", "count_costs"]

# Trained beside the encoder, held by the library's network, and not used by it.
_UNUSED = ("mask_token", ".neck.")
_TRAINED_AT: dict[Source, int] = {"dinov2": 518}


@dataclass(frozen=True, slots=True)
class Costs:
    """Two numbers of one network."""

    parameters: int
    """Of the vision tower: no classifier, no text tower, no mask token, no neck of SAM."""
    flops: int
    """Of one image; a multiplication with its addition counts as two. Matrix products and convolutions only."""


def blueprint(spec: ModelSpec, image_size: int | None = None) -> torch.nn.Module:
    """The network of a row on torch's ``meta`` device: shapes without numbers.

    Parameters
    ----------
    spec
        A row of :data:`featcache.models.MODELS` with a network, or an id whose configuration is on this machine.
    image_size
        In pixels; default the row's native size.

    Raises
    ------
    ConfigurationError
        If the architecture is only known to a file on the hub.
    """
    import torch

    with torch.device("meta"):
        if spec.source in ("timm", "dinov2"):
            import timm

            sized = {"img_size": image_size or spec.image_size} if spec.patch is not None else {}
            network: torch.nn.Module = timm.create_model(spec.architecture, num_classes=0, **sized)
        elif spec.source == "open_clip" and ":" not in spec.name:
            network = _with_projection(spec)
        elif spec.source == "open_clip":
            network = load_dotted("featcache.models.open_clip_towers:blueprint")(spec, image_size or spec.image_size)
        elif spec.name in CONFIGURATIONS:
            network = _configured(spec, CONFIGURATIONS[spec.name], spec.image_size)
        elif (told := Path(spec.checkpoint) / "config.json").is_file():
            config = json.loads(told.read_bytes())
            network = _configured(spec, config.get("vision_config", config), image_size or spec.image_size)
        else:
            raise ConfigurationError(
                f"the architecture of {spec.name} is not known without its config.json",
                remedy="Count a row of `featcache models` that has a source of its own.",
            )
    return network.eval()


def count_costs(spec: ModelSpec) -> Costs:
    """Parameters and operations of a row, counted on a blueprint by torch's own counter.

    Examples
    --------
    >>> from featcache.models import MODELS
    >>> count_costs(MODELS["resnet152"])
    Costs(parameters=58143808, flops=23023157248)
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    trained_at = _TRAINED_AT.get(spec.source, spec.image_size)  # that of the checkpoint's position embedding
    network: Any = blueprint(spec, trained_at)
    named = ((f".{name}.", parameter) for name, parameter in network.named_parameters())
    counted = sum(parameter.numel() for name, parameter in named if not any(part in name for part in _UNUSED))
    if trained_at != spec.image_size:
        network.set_input_size(img_size=(spec.image_size, spec.image_size))
    pixels = torch.empty(1, 3, spec.image_size, spec.image_size, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(pixels)
    by_module: dict[str, Any] = counter.get_flop_counts()
    unused = sum(sum(found.values()) for name, found in by_module.items() if name.endswith(".neck"))
    return Costs(counted, counter.get_total_flops() - unused)


def _configured(spec: ModelSpec, fields: Mapping[str, Any], image_size: int) -> torch.nn.Module:
    import transformers

    config_name, model_name, options = CONFIGURED_CLASSES[spec.architecture]
    config = getattr(transformers, config_name)(**{**fields, "image_size": image_size})
    network: torch.nn.Module = getattr(transformers, model_name)(config, **options)
    return network


def _with_projection(spec: ModelSpec) -> torch.nn.Module:
    """open_clip's tower of a timm network: the class token, projected without a bias."""
    import timm
    import torch

    trunk = timm.create_model(spec.architecture, num_classes=0, img_size=spec.image_size)
    return torch.nn.Sequential(trunk, torch.nn.Linear(trunk.num_features, spec.dim or 0, bias=False))

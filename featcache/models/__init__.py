"""Encoders: rows of facts, weights from files, one module per source. Importing this loads no torch."""

from featcache.models.encoder import ENCODER_VERSIONS, Encoder, load_encoder, load_model
from featcache.models.spec import ModelSpec
from featcache.models.weights import WeightsSource, locate_weights
from featcache.models.zoo import MODELS, resolve_model

__all__ = [
    "ENCODER_VERSIONS",
    "Encoder",
    "MODELS",
    "ModelSpec",
    "WeightsSource",
    "load_encoder",
    "load_model",
    "locate_weights",
    "resolve_model",
]

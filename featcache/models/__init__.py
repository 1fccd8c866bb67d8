"""Encoders: rows of facts, weights from files, one module per source. Importing this loads no torch."""

from featcache.models.compiled import CompileMode
from featcache.models.costs import Costs, count_costs
from featcache.models.encoder import ENCODER_VERSIONS, Encoder, load_encoder, load_model
from featcache.models.fetching import FetchedModel, fetch_model
from featcache.models.footprint import Footprint, footprint
from featcache.models.runtime import RUNTIMES, Precision, RuntimeName, runtime_key
from featcache.models.spec import ModelSpec, require_input_size
from featcache.models.weights import WeightsSource, locate_weights
from featcache.models.zoo import MODELS, resolve_model

__all__ = [
    "CompileMode",
    "Costs",
    "ENCODER_VERSIONS",
    "Encoder",
    "FetchedModel",
    "Footprint",
    "MODELS",
    "ModelSpec",
    "Precision",
    "RUNTIMES",
    "RuntimeName",
    "WeightsSource",
    "count_costs",
    "fetch_model",
    "footprint",
    "load_encoder",
    "load_model",
    "locate_weights",
    "require_input_size",
    "resolve_model",
    "runtime_key",
]

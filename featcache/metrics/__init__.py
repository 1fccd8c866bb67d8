"""Metrics of arrays, and their confidence intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from featcache.metrics.bootstrap import Metric, bootstrap, bootstrap_many, resample_weights
from featcache.metrics.classification import accuracy, auroc, balanced_accuracy, undefined_classes

__all__ = [
    "METRICS",
    "Metric",
    "accuracy",
    "auroc",
    "balanced_accuracy",
    "bootstrap",
    "bootstrap_many",
    "resample_weights",
    "undefined_classes",
]

METRICS: Mapping[str, Metric] = MappingProxyType(
    {"accuracy": accuracy, "auroc": auroc, "balanced_accuracy": balanced_accuracy}
)
"""The metrics that a probe reports, by the name users give them."""

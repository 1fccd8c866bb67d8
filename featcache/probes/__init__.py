"""Probes: what frozen features know about a task. Each loads what it needs when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featcache.probes.base import ProbeSpec
from featcache.registry import Registry, load_dotted

if TYPE_CHECKING:
    from featcache.probes.base import Probe
    from featcache.probes.knn import KNNProbe, vote
    from featcache.probes.linear import LogisticProbe
    from featcache.probes.mlknn import MultiLabelKNN
    from featcache.probes.neighbours import ExactKNN

# In plain order, as in every package of this project.
__all__ = ["ExactKNN", "KNNProbe", "LogisticProbe", "MultiLabelKNN", "PROBES", "Probe", "ProbeSpec", "vote"]

PROBES = Registry(
    "probe",
    (
        ProbeSpec(
            name="knn",
            summary="Softmax-weighted vote of the k nearest training rows by cosine similarity.",
            loader="featcache.probes.knn:KNNProbe",
        ),
        ProbeSpec(
            name="mlknn",
            summary="Multi-label kNN (Zhang and Zhou): the posterior of a label given its count among the neighbours.",
            loader="featcache.probes.mlknn:MultiLabelKNN",
        ),
        ProbeSpec(
            name="linear",
            summary="L2-regularised logistic regression, its strength chosen on val.",
            loader="featcache.probes.linear:LogisticProbe",
        ),
    ),
)
"""The probes by the name users type."""

_EXPORTS = {
    "ExactKNN": "featcache.probes.neighbours:ExactKNN",
    "KNNProbe": "featcache.probes.knn:KNNProbe",
    "LogisticProbe": "featcache.probes.linear:LogisticProbe",
    "MultiLabelKNN": "featcache.probes.mlknn:MultiLabelKNN",
    "Probe": "featcache.probes.base:Probe",
    "vote": "featcache.probes.knn:vote",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_dotted(_EXPORTS[name])


def __dir__() -> list[str]:
    return sorted(__all__)

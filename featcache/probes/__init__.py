"""Probes: what frozen features know about a task. Each loads what it needs when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featcache.probes.base import ProbeSpec
from featcache.registry import Registry, load_dotted

if TYPE_CHECKING:
    from featcache.probes.base import Probe
    from featcache.probes.curves import CurvePoint, learning_curve, mean_interval
    from featcache.probes.episode_protocols import spaced_episodes, study_episodes
    from featcache.probes.episodes import Episodes, draw_episodes
    from featcache.probes.fewshot import FewShot
    from featcache.probes.knn import KNNProbe, vote
    from featcache.probes.linear import LogisticProbe
    from featcache.probes.neighbours import ExactKNN

# In plain order, as in every package of this project.
__all__ = [
    "CurvePoint",
    "Episodes",
    "ExactKNN",
    "FewShot",
    "KNNProbe",
    "LogisticProbe",
    "PROBES",
    "Probe",
    "ProbeSpec",
    "draw_episodes",
    "learning_curve",
    "mean_interval",
    "spaced_episodes",
    "study_episodes",
    "vote",
]

PROBES = Registry(
    "probe",
    (
        ProbeSpec(
            name="knn",
            summary="Softmax-weighted vote of the k nearest training rows by cosine similarity.",
            loader="featcache.probes.knn:KNNProbe",
        ),
        ProbeSpec(
            name="linear",
            summary="L2-regularised logistic regression, its strength chosen on val.",
            loader="featcache.probes.linear:LogisticProbe",
        ),
        ProbeSpec(
            name="fewshot",
            summary="Classifiers from 1, 2, 4, 8 and 16 images a class, over many episodes.",
            loader="featcache.probes.fewshot:FewShot",
        ),
    ),
)
"""The probes by the name users type."""

_EXPORTS = {
    "CurvePoint": "featcache.probes.curves:CurvePoint",
    "Episodes": "featcache.probes.episodes:Episodes",
    "ExactKNN": "featcache.probes.neighbours:ExactKNN",
    "FewShot": "featcache.probes.fewshot:FewShot",
    "KNNProbe": "featcache.probes.knn:KNNProbe",
    "LogisticProbe": "featcache.probes.linear:LogisticProbe",
    "Probe": "featcache.probes.base:Probe",
    "draw_episodes": "featcache.probes.episodes:draw_episodes",
    "learning_curve": "featcache.probes.curves:learning_curve",
    "mean_interval": "featcache.probes.curves:mean_interval",
    "spaced_episodes": "featcache.probes.episode_protocols:spaced_episodes",
    "study_episodes": "featcache.probes.episode_protocols:study_episodes",
    "vote": "featcache.probes.knn:vote",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_dotted(_EXPORTS[name])


def __dir__() -> list[str]:
    return sorted(__all__)

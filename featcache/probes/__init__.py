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
    from featcache.probes.folds import patient_folds
    from featcache.probes.knn import KNNProbe, vote
    from featcache.probes.linear import LinearHeads
    from featcache.probes.logistic import LogisticProbe, LogisticSweep
    from featcache.probes.mlknn import MultiLabelKNN
    from featcache.probes.neighbours import ExactKNN
    from featcache.probes.ridge import RidgeProbe, RidgeSweep
    from featcache.probes.volume import VolumeProbe

# In plain order, as in every package of this project.
__all__ = [
    "CurvePoint",
    "Episodes",
    "ExactKNN",
    "FewShot",
    "KNNProbe",
    "LinearHeads",
    "LogisticProbe",
    "LogisticSweep",
    "MultiLabelKNN",
    "PROBES",
    "Probe",
    "ProbeSpec",
    "RidgeProbe",
    "RidgeSweep",
    "VolumeProbe",
    "draw_episodes",
    "learning_curve",
    "mean_interval",
    "patient_folds",
    "spaced_episodes",
    "study_episodes",
    "vote",
]

PROBES = Registry(
    "probe",
    (
        ProbeSpec(
            name="fewshot",
            summary="Classifiers from 1, 2, 4, 8 and 16 images a class, over many episodes.",
            loader="featcache.probes.fewshot:FewShot",
        ),
        ProbeSpec(
            name="knn",
            summary="Softmax-weighted vote of the k nearest training rows by cosine similarity.",
            loader="featcache.probes.knn:KNNProbe",
        ),
        ProbeSpec(
            name="linear",
            summary="Linear heads by SGD, the protocols of DINOv2 and of the study; the best on val.",
            loader="featcache.probes.linear:LinearHeads",
        ),
        ProbeSpec(
            name="logistic",
            summary="L2-regularised logistic regression, its strength chosen on val.",
            loader="featcache.probes.logistic:LogisticProbe",
        ),
        ProbeSpec(
            name="mlknn",
            summary="Multi-label kNN (Zhang and Zhou): the posterior of a label given its count among the neighbours.",
            loader="featcache.probes.mlknn:MultiLabelKNN",
        ),
        ProbeSpec(
            name="ridge",
            summary="Ridge regression on class indicators, the whole penalty path from one Gram matrix.",
            loader="featcache.probes.ridge:RidgeProbe",
        ),
        ProbeSpec(
            name="volume",
            summary="Volumes from their slices: attention pooling beside the mean and the maximum.",
            loader="featcache.probes.volume:VolumeProbe",
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
    "LinearHeads": "featcache.probes.linear:LinearHeads",
    "LogisticProbe": "featcache.probes.logistic:LogisticProbe",
    "LogisticSweep": "featcache.probes.logistic:LogisticSweep",
    "MultiLabelKNN": "featcache.probes.mlknn:MultiLabelKNN",
    "Probe": "featcache.probes.base:Probe",
    "RidgeProbe": "featcache.probes.ridge:RidgeProbe",
    "RidgeSweep": "featcache.probes.ridge:RidgeSweep",
    "VolumeProbe": "featcache.probes.volume:VolumeProbe",
    "draw_episodes": "featcache.probes.episodes:draw_episodes",
    "learning_curve": "featcache.probes.curves:learning_curve",
    "mean_interval": "featcache.probes.curves:mean_interval",
    "patient_folds": "featcache.probes.folds:patient_folds",
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

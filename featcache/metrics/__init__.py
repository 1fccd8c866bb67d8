"""Metrics of arrays, their confidence intervals over patients, and comparisons of two sets of scores.

=====================================  ===========  ==========  =============================
metric                                 needs        per class   averages
=====================================  ===========  ==========  =============================
auroc, average_precision               a ranking    yes         macro, micro, weighted
sensitivity_at_specificity             a ranking    yes         macro, micro, weighted
accuracy, mcc                          a decision   labels      macro, micro (of labels)
f1, sensitivity                        a decision   yes         macro, micro, weighted
specificity                            a decision   yes         macro, micro
balanced_accuracy                      a decision   yes         macro
brier, ece                             probability  yes         macro, micro (of labels)
=====================================  ===========  ==========  =============================

Label maps have scores of their own (``overlap_counts``, ``score_volume``, ``mean_over_volumes``, ``pooled_dice``).
A decision of a multi-label task needs thresholds: 0.5, or those that ``choose_thresholds`` found on val.
"""

from __future__ import annotations

from featcache.metrics.bootstrap import bootstrap, bootstrap_classes, bootstrap_many
from featcache.metrics.calibration import brier, ece
from featcache.metrics.catalog import DEFAULT_METRICS, METRICS, PROBABILITY_METRICS, Metric, per_class, select_metrics
from featcache.metrics.classification import accuracy, balanced_accuracy, f1, mcc, sensitivity, specificity
from featcache.metrics.comparison import Comparison, adjust, compare, compare_classes, compare_many, holm
from featcache.metrics.delong import delong
from featcache.metrics.inputs import undefined_classes
from featcache.metrics.over_volumes import compare_volumes, mean_over_volumes, pooled_dice, pooled_estimate
from featcache.metrics.ranking import auroc, average_precision, sensitivity_at_specificity
from featcache.metrics.resampling import resample_weights
from featcache.metrics.segmentation import SEGMENTATION_METRICS, dice, iou, overlap_counts, score_volume
from featcache.metrics.surfaces import hd95, surface_dice, surface_distances
from featcache.metrics.thresholds import choose_thresholds

__all__ = [
    "Comparison",
    "DEFAULT_METRICS",
    "METRICS",
    "Metric",
    "PROBABILITY_METRICS",
    "SEGMENTATION_METRICS",
    "accuracy",
    "adjust",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap",
    "bootstrap_classes",
    "bootstrap_many",
    "brier",
    "choose_thresholds",
    "compare",
    "compare_classes",
    "compare_many",
    "compare_volumes",
    "delong",
    "dice",
    "ece",
    "f1",
    "hd95",
    "holm",
    "iou",
    "mcc",
    "mean_over_volumes",
    "overlap_counts",
    "per_class",
    "pooled_dice",
    "pooled_estimate",
    "resample_weights",
    "score_volume",
    "select_metrics",
    "sensitivity",
    "sensitivity_at_specificity",
    "specificity",
    "surface_dice",
    "surface_distances",
    "undefined_classes",
]

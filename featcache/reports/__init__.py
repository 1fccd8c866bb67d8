"""Pictures of results and of what a model will see. matplotlib loads with the first picture that needs it."""

from featcache.reports.embedding_map import draw_embedding_map
from featcache.reports.learning_curve import draw_learning_curve
from featcache.reports.predictions import SavedPredictions, save_predictions
from featcache.reports.preview import draw_preview
from featcache.reports.segmentation import OverlayCase, draw_overlay, overlay_cases

__all__ = [
    "OverlayCase",
    "SavedPredictions",
    "draw_embedding_map",
    "draw_learning_curve",
    "draw_overlay",
    "draw_preview",
    "overlay_cases",
    "save_predictions",
]

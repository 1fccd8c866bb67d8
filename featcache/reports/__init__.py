"""Pictures of results and of what a model will see. matplotlib loads with the first picture that needs it."""

from featcache.reports.embedding_map import draw_embedding_map
from featcache.reports.learning_curve import draw_learning_curve
from featcache.reports.preview import draw_preview

__all__ = ["draw_embedding_map", "draw_learning_curve", "draw_preview"]

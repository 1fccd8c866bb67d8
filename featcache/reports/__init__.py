"""Pictures of results. matplotlib loads with the first picture."""

from featcache.reports.embedding_map import draw_embedding_map
from featcache.reports.learning_curve import draw_learning_curve

__all__ = ["draw_embedding_map", "draw_learning_curve"]

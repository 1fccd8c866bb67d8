"""Pictures of results. matplotlib loads with the first picture."""

from featcache.reports.embedding_map import draw_embedding_map

__all__ = ["draw_embedding_map"]

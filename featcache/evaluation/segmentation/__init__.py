"""A store's patch tokens x masks x head -> scores on the masks' own grids."""

from featcache.evaluation.segmentation.heads import HeadSettings
from featcache.evaluation.segmentation.segmenting import SegmentationOutcome, segment

__all__ = ["HeadSettings", "SegmentationOutcome", "segment"]

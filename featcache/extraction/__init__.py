"""From a dataset and an encoder to a feature store: plan what is missing, compute it, commit it."""

from featcache.extraction.estimate import estimate
from featcache.extraction.extract import extract, extract_models
from featcache.extraction.masks import MaskReport, write_masks
from featcache.extraction.plan import Plan, make_plan
from featcache.extraction.preview import Preview, preview
from featcache.extraction.upkeep import Explanation, check_source, repair, update_labels, why

__all__ = [
    "Explanation",
    "MaskReport",
    "Plan",
    "Preview",
    "check_source",
    "estimate",
    "extract",
    "extract_models",
    "make_plan",
    "preview",
    "repair",
    "update_labels",
    "why",
    "write_masks",
]

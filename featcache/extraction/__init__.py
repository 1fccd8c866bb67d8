"""From a dataset and an encoder to a feature store: plan what is missing, compute it, commit it."""

from featcache.extraction.extract import extract
from featcache.extraction.plan import Plan, make_plan
from featcache.extraction.upkeep import Explanation, check_source, repair, update_labels, why

__all__ = [
    "Explanation",
    "Plan",
    "check_source",
    "extract",
    "make_plan",
    "repair",
    "update_labels",
    "why",
]

"""From a dataset and an encoder to a feature store: plan what is missing, compute it, commit it."""

from featcache.extraction.extract import extract
from featcache.extraction.plan import Plan, make_plan

__all__ = ["Plan", "extract", "make_plan"]

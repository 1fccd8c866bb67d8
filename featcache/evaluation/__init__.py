"""Store x task x split x probe -> Result: the one place that joins them."""

from featcache.evaluation.everything import probe_all
from featcache.evaluation.probing import probe

__all__ = ["probe", "probe_all"]

"""Results: a ledger that remembers every answer, and the comparison of two of them."""

from featcache.results.comparing import ResultComparison, compare_results
from featcache.results.ledger import Ledger, fingerprint

__all__ = ["Ledger", "ResultComparison", "compare_results", "fingerprint"]

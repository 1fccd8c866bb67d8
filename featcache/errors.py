"""The errors and warnings of featcache.

::

    FeatcacheError
    ├── UnknownNameError          a registry has no row of that name (says the nearest ones)
    ├── ConfigurationError        options that contradict each other or cannot be met
    ├── MissingDependencyError    an optional package is needed for this
    ├── DatasetError              a dataset's files are not what its layout says
    ├── ImageError                one image cannot be used; extraction quarantines it and goes on
    ├── WeightsError              a checkpoint is missing, damaged or of another architecture
    ├── StoreError                a feature store cannot be used
    │   ├── StoreNotFoundError    there is no such store
    │   ├── StoreVersionError     it was written by a newer featcache
    │   ├── StoreCorruptError     its bytes are not what was committed
    │   └── StoreLockedError      another process is writing to it
    ├── ProbeError                a question that this store, task or split cannot answer
    └── ResultError               a recorded result that is not there, damaged, or not comparable

    FeatcacheWarning              something the user should know, said once

A message says what happened, where, what was expected and found, and the remedy.
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "DatasetError",
    "FeatcacheError",
    "FeatcacheWarning",
    "ImageError",
    "MissingDependencyError",
    "ProbeError",
    "ResultError",
    "StoreCorruptError",
    "StoreError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StoreVersionError",
    "UnknownNameError",
    "WeightsError",
]


class FeatcacheError(Exception):
    """Base of all errors that featcache raises on purpose.

    Parameters
    ----------
    message
        What happened and where.
    remedy
        What the user can do about it; shown on a line of its own.
    """

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message if remedy is None else f"{message}\n{remedy}")
        self.message = message
        self.remedy = remedy


class UnknownNameError(FeatcacheError, LookupError):
    """A registry has no row of that name."""


class ConfigurationError(FeatcacheError, ValueError):
    """Options contradict each other or cannot be met."""


class MissingDependencyError(FeatcacheError, ImportError):
    """An optional package is needed and not installed."""


class DatasetError(FeatcacheError):
    """A dataset's files are not what its layout says."""


class ImageError(FeatcacheError):
    """One image cannot be used. Extraction quarantines it and goes on."""


class WeightsError(FeatcacheError):
    """A checkpoint is missing, damaged or made for another architecture."""


class StoreError(FeatcacheError):
    """A feature store cannot be used."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no such store."""


class StoreVersionError(StoreError):
    """The store was written in a format newer than this featcache reads."""


class StoreCorruptError(StoreError):
    """The bytes of a store are not what was committed."""


class StoreLockedError(StoreError):
    """Another process is writing to the store."""


class ProbeError(FeatcacheError, ValueError):
    """A question that this store, task or split cannot answer."""


class ResultError(FeatcacheError):
    """A recorded result is not there, cannot be read, or cannot be compared with another."""


class FeatcacheWarning(UserWarning):
    """Something the user should know; said once, never instead of an error."""

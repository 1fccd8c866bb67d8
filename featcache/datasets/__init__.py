"""Datasets: what the samples are, where their files lie, what is known about them.

A dataset is a table of samples plus a few facts. It opens no image; labels never enter the feature cache.
"""

from featcache.datasets.base import SAMPLE_COLUMNS, Dataset, DatasetSpec, SplitOrigin
from featcache.datasets.catalog import DATASETS
from featcache.datasets.check import CountCheck, DatasetReport, check_dataset
from featcache.datasets.loading import load_dataset
from featcache.datasets.roots import dataset_root

__all__ = [
    "CountCheck",
    "DATASETS",
    "Dataset",
    "DatasetReport",
    "DatasetSpec",
    "SAMPLE_COLUMNS",
    "SplitOrigin",
    "check_dataset",
    "dataset_root",
    "load_dataset",
]

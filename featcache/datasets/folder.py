"""``folder``: one subfolder a class, optionally below ``train``, ``val`` and ``test``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from featcache.datasets.base import Dataset, generic_name, sample_table
from featcache.datasets.files import left_out_notes, walk
from featcache.datasets.masks import mask_task, parallel_masks, with_masks
from featcache.datasets.pages import with_pages
from featcache.datasets.splits import SPLITS, normalized_split, seeded_split
from featcache.errors import ConfigurationError, DatasetError
from featcache.imaging import decoder_of
from featcache.records import Task

__all__ = ["load"]


def load(root: Path, *, masks: str = "", mask_classes: Sequence[str] | str = (), seed: int = 0) -> Dataset:
    """Read ``ROOT/<class>/…/*.png`` or ``ROOT/{train,val,test}/<class>/…/*.png``.

    The id of a sample is its path below the root; a TIFF of several pages gives a row for each. Files whose extension
    names no image are left out and counted in the notes; links to folders are not followed.

    Parameters
    ----------
    root
        The folder.
    masks
        A folder below the root with masks under the paths of their images, in any image format:
        ``masks/train/cat/7.png`` of ``train/cat/7.jpg``. They become the task ``segmentation``.
    mask_classes
        See :func:`featcache.datasets.table.load`.
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
    folder = masks.strip("/")
    targets = [path for path in images if folder and path.startswith(f"{folder}/")]
    images = [path for path in images if not (folder and path.startswith(f"{folder}/"))]
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
    mask_notes: tuple[str, ...] = ()
    if folder:
        samples, mask_notes = with_masks(samples, parallel_masks(targets, names, folder), root, f"folder {folder!r}")
    elif mask_classes:
        raise ConfigurationError("dataset 'folder': mask classes without masks", remedy="Pass masks=FOLDER.")
    labels = (
        (Task("label", "binary" if len(classes) == 2 else "multiclass", ("label",), classes),)
        if len(classes) > 1
        else ()
    )
    split_notes = () if has_splits else (_split_note(split, seed),)
    samples, page_notes = with_pages(samples, root)
    return Dataset(
        name=generic_name(root),
        root=root,
        samples=samples,
        tasks=(*labels, mask_task(mask_classes)) if folder else labels,
        split_origin="folder" if has_splits else "none" if split.isna().all() else "seeded",
        notes=(
            *split_notes,
            *page_notes,
            *mask_notes,
            *left_out_notes(tree, foreign=len(tree.files) - len(images) - len(targets)),
        ),
        split_notes=split_notes,
    )


def _split_note(split: pd.Series[str], seed: int) -> str:
    if split.isna().all():
        return "The folders give no split, and there are too few images to make one."
    return (
        f"The folders give no split: 60/20/20 by image, stratified, seed {seed}. Without patient ids, "
        "images of one patient may be on both sides; use `table` with a patient column to prevent that."
    )

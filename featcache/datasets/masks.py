"""Segmentation masks of a user's own data: one file an image, named by a table or by a folder of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from featcache.datasets.files import shown
from featcache.errors import DatasetError
from featcache.records import Task

__all__ = ["mask_task", "parallel_masks", "with_masks"]


def mask_task(classes: Sequence[str] | str = ()) -> Task:
    """The task of one mask column.

    Parameters
    ----------
    classes
        Names of the values 0, 1, 2 …, as a list or with commas; none: every value but 0 is foreground.

    Examples
    --------
    >>> mask_task("background,lung").mask_values
    (0, 1)
    """
    names = tuple(name.strip() for name in (classes.split(",") if isinstance(classes, str) else classes))
    if not any(names):
        return Task("segmentation", "segmentation", ("mask",), ("background", "foreground"))
    return Task("segmentation", "segmentation", ("mask",), names, mask_values=tuple(range(len(names))))


def parallel_masks(files: Sequence[str], images: pd.Series[str], folder: str) -> pd.Series[str]:
    """Masks that lie in a folder under the paths of their images, whatever the extension.

    Parameters
    ----------
    files
        All files below the root.
    images
        (n,) paths below the root.
    folder
        Of the masks, below the root: ``masks/cat/7.png`` belongs to ``cat/7.jpg``.

    Returns
    -------
    Series
        (n,) paths below the root; missing where there is no such file.

    Examples
    --------
    >>> parallel_masks(["m/a/1.png", "a/1.jpg"], pd.Series(["a/1.jpg", "a/2.jpg"]), "m").tolist()
    ['m/a/1.png', nan]
    """
    prefix = f"{folder}/"
    found = {_stem(path.removeprefix(prefix)): path for path in files if path.startswith(prefix)}
    return pd.Series([found.get(_stem(path)) for path in images.tolist()], index=images.index, dtype="str")


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}"


def with_masks(
    samples: pd.DataFrame, masks: pd.Series[str], root: Path, where: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Add the columns ``mask`` and ``mask_selector``; a mask that is not there is a missing one.

    Parameters
    ----------
    samples
        The samples.
    masks
        (n,) paths below the root, missing where an image has no mask.
    root
        Of the dataset.
    where
        Who names them, for messages.

    Returns
    -------
    samples
        With the columns.
    notes
        Images without a mask, masks without a file.

    Raises
    ------
    DatasetError
        If there is no mask at all.
    """
    there = masks.map(lambda path: (root / path).is_file(), na_action="ignore").eq(True)
    gone = masks[masks.notna() & ~there].tolist()
    without = samples["id"][masks.isna()].tolist()
    if not there.any():
        named = f", such as {gone[0]}" if gone else ""
        raise DatasetError(
            f"{where}: none of {len(masks)} images has a mask file{named}",
            remedy="Paths of masks are relative to the root, as those of images are.",
        )
    column = masks.where(there)
    samples = samples.assign(mask=column, mask_selector=pd.Series("", index=samples.index, dtype="str").where(there))
    return samples, (
        *((f"{len(without)} images have no mask: {shown(without)}.",) if without else ()),
        *((f"{len(gone)} masks are not there: {shown(gone)}.",) if gone else ()),
    )

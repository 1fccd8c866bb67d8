"""TIFF files of several pages: one row a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from featcache.datasets.files import shown
from featcache.imaging import decoder_of
from featcache.records import Selector

__all__ = ["with_pages"]


def with_pages(samples: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Replace the row of each TIFF of several pages by one row a page, with the same labels and split.

    Of TIFF files the directories are read, no pixels; other files are not opened.

    Parameters
    ----------
    samples
        Rows that are whole files.
    root
        Of the dataset.

    Returns
    -------
    samples
        Ids of pages are ``<id>_<page>``, the file's id is their ``volume``, ``index`` the page, from 0.
    notes
        The files that were taken apart.
    """
    paths = samples["path"].tolist()
    files = [path for path in dict.fromkeys(paths) if decoder_of(path) == "tiff"]
    if not files:
        return samples, ()
    from featcache.imaging.tiff import page_count

    pages = {path: page_count(root / path) for path in files}
    if all(count == 1 for count in pages.values()):
        return samples, ()
    counts = np.array([pages.get(path, 1) for path in paths])
    several = pd.Series(np.repeat(counts > 1, counts))
    page = pd.Series(np.concatenate([np.arange(count) for count in counts]), dtype="Int64")
    samples = samples.loc[samples.index.repeat(counts)].reset_index(drop=True)
    selectors = pd.Series([Selector(frame=number).to_text() for number in page.tolist()], dtype="str")
    ids = pd.Series([f"{name}_{number:03}" for name, number in zip(samples["id"], page, strict=True)], dtype="str")
    samples = samples.assign(
        id=samples["id"].where(~several, ids),
        selector=samples["selector"].where(~several, selectors),
        volume=samples["volume"].where(~several, samples["id"]),
        index=samples["index"].where(~several, page),
    )
    if "mask" in samples:  # a mask has the pages of its image
        samples["mask_selector"] = samples["selector"].where(samples["mask"].notna())
    names = [path for path, count in pages.items() if count > 1]
    return samples, (f"{len(names)} TIFF files have several pages, each of which is a row: {shown(names)}.",)

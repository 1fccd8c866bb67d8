"""``montgomery`` and ``shenzhen``: chest X-rays with and without tuberculosis, with outlines of the lungs."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from featcache.datasets.base import Dataset, SplitOrigin, layout_error, sample_table
from featcache.datasets.files import Tree, left_out_notes, shown, walk
from featcache.datasets.splits import SPLITS, mapped_split, normalized_split, study_split
from featcache.errors import ConfigurationError
from featcache.records import Task

__all__ = ["CLASSES", "load_montgomery", "load_shenzhen"]

CLASSES = ("normal", "tuberculosis")
"""The last digit of the file name: 0 and 1."""

_NAME = re.compile(r"^(?:MCUCXR|CHNCXR)_\d+_[01]$", re.IGNORECASE)
_SEX = re.compile(r"\b(female|male|f|m)\b", re.IGNORECASE)
_AGE = re.compile(r"(\d{1,3})\s*(?:y|$)", re.IGNORECASE | re.MULTILINE)
_NO_PATIENTS = "The publisher gives no patient ids: each image is taken as a patient of its own."


def load_montgomery(root: Path) -> Dataset:
    """Read ``CXR_png/*.png``, ``ManualMask/leftMask/*.png`` and ``ManualMask/rightMask/*.png``.

    The column ``mask`` is the left lung's file, ``mask_right`` the right lung's. The split is the study's rule over
    the sorted names: 46 for test, then 23 of the rest for val; or that of ``{train,val,test}/`` folders.

    Parameters
    ----------
    root
        The publisher's folder ``MontgomerySet``.

    Raises
    ------
    DatasetError
        If there are no such images.
    """
    tree = walk(root)
    images = _images(tree, "montgomery", "MCUCXR")
    split, origin, notes = _split(images, test=46, val=23, of=138)
    samples = _samples(root, images, split)
    for column, folder in (("mask", "leftMask"), ("mask_right", "rightMask")):
        samples[column] = _masks(tree, folder, samples["id"])
    lungs = Task("lungs", "segmentation", ("mask", "mask_right"), ("background", "left lung", "right lung"))
    return _dataset("montgomery", tree, samples, lungs, origin, notes)


def load_shenzhen(root: Path, *, images: str = "masked") -> Dataset:
    """Read ``CXR_png/*.png`` and ``mask/<name>_mask.png`` (or ``masks/``).

    The study takes the images that have a mask, and of their sorted names every fifth for test, then every fifth of
    the rest for val. (Its own order was that of its file system, so its lists may differ.)

    Parameters
    ----------
    root
        The publisher's folder ``ChinaSet_AllFiles`` with the masks, which are published apart.
    images
        ``masked``: those with a mask, as the study; ``all``: the others too, split among themselves in the same way.

    Raises
    ------
    DatasetError
        If there are no such images, or with ``masked`` no masks.
    """
    if images not in ("masked", "all"):
        raise ConfigurationError(f"shenzhen: images is {images!r}", remedy="Known: masked, all.")
    tree = walk(root)
    paths = _images(tree, "shenzhen", "CHNCXR")
    samples = _samples(root, paths, pd.Series([None] * len(paths), dtype="str"))
    samples["mask"] = _masks(tree, "mask", samples["id"], suffix="_mask").fillna(
        _masks(tree, "masks", samples["id"], suffix="_mask")
    )
    masked = samples["mask"].notna()
    if images == "masked":
        if not masked.any():
            raise layout_error("shenzhen", root, f"{len(samples)} images, and no mask/<name>_mask.png")
        samples = samples[masked].reset_index(drop=True)
    given = _folders(samples["path"].tolist())
    origin: SplitOrigin = "study" if given is None else "folder"
    if given is None:
        masked = samples["mask"].notna()
        of = {**_every_fifth(samples["id"][masked].tolist()), **_every_fifth(samples["id"][~masked].tolist())}
        given = mapped_split(samples["id"], of)
    samples["split"] = given
    lungs = Task("lungs", "segmentation", ("mask",), ("background", "lung"))
    return _dataset("shenzhen", tree, samples, lungs, origin, ())


def _every_fifth(names: list[str]) -> dict[str, str]:
    rest = [name for place, name in enumerate(names) if place % 5]
    return {
        **dict.fromkeys(names, "test"),
        **dict.fromkeys(rest, "train"),
        **dict.fromkeys(rest[::5], "val"),
    }


def _images(tree: Tree, name: str, prefix: str) -> list[str]:
    found = [
        path
        for path in tree.ending(".png")
        if "mask" not in path.lower() and _NAME.match(_stem(path)) and _stem(path).upper().startswith(prefix)
    ]
    if not found:
        raise layout_error(name, tree.root, f"no {prefix}_*.png in its folders")
    return sorted(found, key=_stem)


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _folders(paths: list[str]) -> pd.Series[str] | None:
    top = [normalized_split(path.split("/")[0]) for path in paths]
    return pd.Series(top, dtype="str") if set(top) <= set(SPLITS) else None


def _split(images: list[str], *, test: int, val: int, of: int) -> tuple[pd.Series[str], SplitOrigin, tuple[str, ...]]:
    given = _folders(images)
    if given is not None:
        return given, "folder", ()
    names = pd.Series([_stem(path) for path in images], dtype="str")
    split, notes = study_split(names.tolist(), test=test, val=val, of=of)
    return mapped_split(names, split), "study", notes


def _samples(root: Path, images: list[str], split: pd.Series[str]) -> pd.DataFrame:
    ids = pd.Series([_stem(path) for path in images], dtype="str")
    samples = sample_table(ids, pd.Series(images, dtype="str"), split=split, patient=ids)
    readings = [_reading(root, name) for name in ids.tolist()]
    return samples.assign(
        diagnosis=pd.Series([CLASSES[int(name[-1])] for name in ids.tolist()], dtype="str"),
        sex=pd.Series([sex for sex, _ in readings], dtype="str"),
        age=pd.Series([age for _, age in readings], dtype="Int64"),
        mask_selector=pd.Series([""] * len(ids), dtype="str"),
    )


def _reading(root: Path, name: str) -> tuple[str | None, int | None]:
    """Sex and age from the first two lines of a clinical reading; its text is never kept."""
    file = root / "ClinicalReadings" / f"{name}.txt"
    try:
        head = "\n".join(file.read_text(encoding="utf-8-sig", errors="replace").splitlines()[:2])
    except OSError:
        return None, None
    sex, age = _SEX.search(head.replace("Patient's Sex", "")), _AGE.search(head)
    return (sex[1][0].upper() if sex else None), (int(age[1]) if age else None)


def _masks(tree: Tree, folder: str, ids: pd.Series[str], suffix: str = "") -> pd.Series[str]:
    found = {
        _stem(path).lower(): path
        for path in tree.ending(".png")
        if "/" in path and path.split("/")[-2].lower() == folder.lower()
    }
    return pd.Series([found.get(f"{name}{suffix}".lower()) for name in ids.tolist()], dtype="str")


def _dataset(  # noqa: PLR0917 - private, and each is another thing
    name: str, tree: Tree, samples: pd.DataFrame, lungs: Task, origin: SplitOrigin, notes: tuple[str, ...]
) -> Dataset:
    without = samples["id"][samples[list(lungs.columns)].isna().any(axis=1)].tolist()
    return Dataset(
        name=name,
        root=tree.root,
        samples=samples,
        tasks=(Task("diagnosis", "binary", ("diagnosis",), CLASSES), lungs),
        split_origin=origin,
        notes=(
            _NO_PATIENTS,
            *notes,
            *((f"{len(without)} images have no mask: {shown(without)}.",) if without else ()),
            *left_out_notes(tree),
        ),
        split_notes=notes,
    )

"""``verify_masks``: every file of ``masks.zarr`` against what was written."""

from __future__ import annotations

from pathlib import Path

from featcache.errors import StoreCorruptError
from featcache.store.find import MASKS
from featcache.store.mask_documents import check_folder, read_mask_attributes
from featcache.store.verify import Problem
from featcache.store.zarr_layout import group_document, to_json

__all__ = ["verify_masks"]


def verify_masks(folder: Path) -> list[Problem]:
    """Compare the masks of a dataset with their checksums.

    Covered: the group's document, byte by byte; names, sizes and content of all files of the tables of rows and of the
    arrays' documents (SHA-256); every chunk of labels (crc32c).

    Parameters
    ----------
    folder
        Of the dataset in the home; one without ``masks.zarr`` has no problem.

    Returns
    -------
    list of Problem
        Empty where nothing is wrong.
    """
    import zarr

    path = folder / MASKS
    if not path.is_dir():
        return []
    try:
        attributes = read_mask_attributes(path)
    except StoreCorruptError as error:
        return [Problem(f"{path.name}/zarr.json", error.message)]
    problems = []
    if (path / "zarr.json").read_bytes() != to_json(group_document({"featcache": attributes})):
        problems.append(Problem(f"{path.name}/zarr.json", "its bytes are not those that featcache wrote"))
    for name in attributes["folders"]:
        try:
            check_folder(path, name, attributes)
        except StoreCorruptError as error:
            problems.append(Problem(f"{path.name}/{name}", error.message))
            continue
        if not name.startswith("labels-"):
            continue
        labels = zarr.open_array(path / name, mode="r")
        size = int(labels.chunks[0])
        for number in range(-(-int(labels.shape[0]) // size)):
            try:
                labels[number * size : (number + 1) * size]
            except (OSError, ValueError, RuntimeError) as error:
                problems.append(Problem(f"{path.name}/{name}/c/{number}", f"the chunk cannot be read: {error}"))
    return problems

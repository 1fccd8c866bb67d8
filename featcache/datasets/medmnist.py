"""``medmnist``: one ``.npz`` of the MedMNIST collection; every image is a row of an array in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featcache.datasets.base import SAMPLE_COLUMNS, Dataset, layout_error, sample_table
from featcache.datasets.files import shown
from featcache.datasets.splits import SPLITS
from featcache.errors import DatasetError
from featcache.records import Task

__all__ = ["CLASSES", "load"]

_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)
CLASSES: dict[str, tuple[str, ...]] = {
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocytes",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
    "breastmnist": ("malignant", "normal or benign"),
    "chestmnist": (
        "atelectasis",
        "cardiomegaly",
        "effusion",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "pneumothorax",
        "consolidation",
        "edema",
        "emphysema",
        "fibrosis",
        "pleural thickening",
        "hernia",
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma",
        "basal cell carcinoma",
        "benign keratosis-like lesions",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevi",
        "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    ),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
    "tissuemnist": (
        "collecting duct, connecting tubule",
        "distal convoluted tubule",
        "glomerular endothelial cells",
        "interstitial endothelial cells",
        "leukocytes",
        "podocytes",
        "proximal tubule segments",
        "thick ascending limb",
    ),
}
"""Names of the labels 0, 1, 2 … by the file's name (without the size that newer files carry, as in ``_224``)."""


def load(root: Path, *, file: str | None = None) -> Dataset:
    """Read the labels of ``<name>.npz`` and the sizes of its images; no pixels.

    The official split is that of the arrays ``train_*``, ``val_*``, ``test_*``. A sample's selector names array and
    row. The dataset is called after the file. MedMNIST carries no patient ids.

    Parameters
    ----------
    root
        The folder.
    file
        Which ``.npz`` in it; default the only one.

    Raises
    ------
    DatasetError
        If there is no such file, or its arrays are not MedMNIST's, or the images are volumes (the 3D sets).
    """
    path = _find(root, file)
    name = path.stem.lower().split("_")[0]
    tables = []
    classes: tuple[str, ...] = ()
    multilabel = False
    for split, labels, count in _arrays(path):
        multilabel = labels.shape[1] > 1
        total = labels.shape[1] if multilabel else 1 + int(max(labels.max(), len(classes) - 1))
        classes = CLASSES.get(name, ()) or tuple(f"class {number}" for number in range(total))
        if len(classes) < total:
            raise DatasetError(
                f"{path} has {total} classes, {name} {len(classes)}", remedy="Check that the file is what it is called."
            )
        tables.append(_table(path, split, labels, count, classes if multilabel else ()))
    samples = pd.concat(tables, ignore_index=True)
    task = Task("labels", "multilabel", classes, classes)
    if not multilabel:
        samples["label"] = pd.Series([classes[number] for number in samples["label"].tolist()], dtype="str")
        task = Task("label", "binary" if len(classes) == 2 else "multiclass", ("label",), classes)
    return Dataset(
        name=path.stem.lower(),
        root=root,
        samples=samples,
        tasks=(task,),
        split_origin="official",
        notes=("MedMNIST carries no patient ids.",),
    )


def _find(root: Path, file: str | None) -> Path:
    found = sorted(path for path in root.iterdir() if path.suffix.lower() == ".npz")
    if file is not None:
        found = [path for path in found if file.lower() in (path.name.lower(), path.stem.lower())]
    if len(found) != 1:
        what = f"{len(found)} .npz files" + (f" called {file}" if file else "")
        raise layout_error("medmnist", root, f"{what} ({shown(path.name for path in found)}); name one with file")
    return found[0]


def _arrays(path: Path) -> list[tuple[str, NDArray[np.int64], int]]:
    """(split, (n, L) labels, number of images) of each split."""
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            names = set(arrays.files)
            missing = [f"{split}_{part}" for split in SPLITS for part in ("images", "labels")]
            missing = [name for name in missing if name not in names]
            if missing:
                raise DatasetError(
                    f"{path} has no {shown(missing)} (it has {shown(sorted(names), 6)})",
                    remedy="Expected the arrays of a MedMNIST file.",
                )
            shapes = {split: _shape(archive, f"{split}_images.npy") for split in SPLITS}
            labels = {split: _two_dimensional(arrays[f"{split}_labels"]) for split in SPLITS}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DatasetError(f"{path} cannot be read: {error}", remedy="Download it again.") from error
    for split, shape in shapes.items():
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            raise DatasetError(
                f"{path}: {split}_images has the shape {shape}",
                remedy="Expected (n, H, W) or (n, H, W, 3): volumes of MedMNIST 3D are not read.",
            )
        if shape[0] != len(labels[split]):
            raise DatasetError(
                f"{path}: {shape[0]} {split} images and {len(labels[split])} labels", remedy="Download it again."
            )
    return [(split, labels[split], shapes[split][0]) for split in SPLITS]


def _two_dimensional(labels: NDArray[Any]) -> NDArray[np.int64]:
    return labels.astype(np.int64).reshape(len(labels), -1)


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """An array's shape from its header, without its data."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        header: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape: tuple[int, ...] = header(file)[0]
    return shape


def _table(path: Path, split: str, labels: NDArray[np.int64], count: int, columns: tuple[str, ...]) -> pd.DataFrame:
    """Rows of one split; the label columns are ``columns``, or ``label`` as a number."""
    missing = pd.Series([None] * count, dtype="str")
    table = sample_table(
        pd.Series([f"{split}_{row:06}" for row in range(count)], dtype="str"),
        pd.Series([path.name] * count, dtype="str"),
        split=pd.Series([split] * count, dtype="str"),
        patient=missing,
    )
    # The canonical text of Selector(array=…, index=row).
    texts = [f'{{"array":"{split}_images","index":{row}}}' for row in range(count)]
    table["selector"] = pd.Series(texts, dtype="str")
    table = table[list(SAMPLE_COLUMNS)]
    if columns:
        table[list(columns)] = labels
        return table
    return table.assign(label=labels[:, 0])

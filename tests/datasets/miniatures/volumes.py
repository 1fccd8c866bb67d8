"""The Decathlon's tasks, AMOS22, BTCV in both layouts, and a folder of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.datasets.miniatures.files import write_lines, write_volume


def make_task(root: Path, folder: str, prefix: str, *, values: int, volumes: int = 10) -> Path:
    """A Decathlon task: labelled volumes, two unlabelled, ``dataset.json``, and macOS's ``._`` files."""
    names = [f"{prefix}{number:03}.nii.gz" for number in range(1, volumes + 1)]
    for number, name in enumerate(names):
        shape = (8, 7, 5 + number % 3)
        write_volume(root / folder / "imagesTr" / name, shape, seed=number)
        write_volume(root / folder / "labelsTr" / name, shape, values=values)
        (root / folder / "imagesTr" / f"._{name}").write_bytes(b"\0\5\x16\7")
    for number in (90, 91):
        write_volume(root / folder / "imagesTs" / f"{prefix}{number:03}.nii.gz", seed=number)
    training = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    content = {"name": folder, "numTraining": len(names), "training": training}
    (root / folder / "dataset.json").write_text(json.dumps(content))
    return root


def make_heart(root: Path) -> Path:
    """Task 2."""
    return make_task(root, "Task02_Heart", "la_", values=1)


def make_hippocampus(root: Path) -> Path:
    """Task 4."""
    return make_task(root, "Task04_Hippocampus", "hippocampus_", values=2)


def make_spleen(root: Path) -> Path:
    """Task 9."""
    return make_task(root, "Task09_Spleen", "spleen_", values=1)


def make_planes(root: Path) -> Path:
    """The study's rearranged layout: a ``.npy`` a slice."""
    for split, volumes in (("train", (3, 4)), ("val", (5,)), ("test", (7,))):
        for volume in volumes:
            for number in range(4):
                for folder in ("images", "labels"):
                    path = root / split / folder / f"la_{volume:03}_{number:03}.npy"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    np.save(path, np.full((8, 7), float(number)))
    return root


def make_amos(root: Path) -> Path:
    """10 CT and 2 MRI training volumes, 5 and 1 for validation, 2 unlabelled ones."""
    base = root / "amos22"
    for number in (*range(1, 11), 507, 510):
        write_volume(base / "imagesTr" / f"amos_{number:04}.nii.gz", (6, 6, 5), seed=number)
        write_volume(base / "labelsTr" / f"amos_{number:04}.nii.gz", (6, 6, 5), values=15)
    for number in (11, 12, 13, 14, 15, 550):
        write_volume(base / "imagesVa" / f"amos_{number:04}.nii.gz", (6, 6, 5), seed=number)
        write_volume(base / "labelsVa" / f"amos_{number:04}.nii.gz", (6, 6, 5), values=15)
    for number in (16, 17):
        write_volume(base / "imagesTs" / f"amos_{number:04}.nii.gz", (6, 6, 5), seed=number)
    (base / "dataset.json").write_text(json.dumps({"name": "AMOS"}))
    return root


def make_btcv(root: Path, *, layout: str = "raw") -> Path:
    """6 labelled and 3 test volumes in ``RawData`` or in the ``averaged-`` folders."""
    for number in (1, 2, 3, 4, 5, 21):
        image = f"RawData/Training/img/img{number:04}.nii.gz"
        label = f"RawData/Training/label/label{number:04}.nii.gz"
        if layout == "averaged":
            image = f"averaged-training-images/DET{number:05}01_avg.nii.gz"
            label = f"averaged-training-labels/DET{number:05}01_avg_seg.nii.gz"
        write_volume(root / image, (6, 6, 4), seed=number)
        write_volume(root / label, (6, 6, 4), values=13)
    for number in (61, 62, 63):
        image = f"RawData/Testing/img/img{number:04}.nii.gz"
        if layout == "averaged":
            image = f"averaged-testing-images/DET{number:05}01_avg.nii.gz"
        write_volume(root / image, (6, 6, 4), seed=number)
    return root


def make_nifti(root: Path) -> Path:
    """10 volumes of 5 BIDS subjects with masks beside them, and a table."""
    lines = ["volume,label,patient,site"]
    for subject in range(1, 6):
        for visit in (1, 2):
            name = f"sub-{subject:02}_ses-{visit}_T1w"
            write_volume(root / f"sub-{subject:02}" / f"{name}.nii.gz", (6, 5, 4), seed=subject * 10 + visit)
            write_volume(root / f"sub-{subject:02}" / f"{name}_seg.nii.gz", (6, 5, 4), values=1)
            lines.append(f"{name},{'sick' if subject % 2 else 'well'},sub-{subject:02},A")
    write_lines(root / "labels.csv", lines, bom=True)
    return root

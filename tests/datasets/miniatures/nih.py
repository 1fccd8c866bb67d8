"""``Data_Entry_2017.csv`` with its trailing comma, the two lists, ``images_001`` … ``images_003``."""

from __future__ import annotations

from pathlib import Path

from tests.datasets.miniatures.files import write_lines, write_png

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
FINDINGS = ("No Finding", "Atelectasis|Effusion", "Mass", "Hernia", "Pleural_Thickening|Pneumothorax", "Edema")
OPTIONS = {"val_images": 6}


def rows(patients: int = 12, images: int = 2) -> list[tuple[str, str]]:
    """(file name, line of the table) of each image."""
    found = []
    for patient in range(1, patients + 1):
        for follow_up in range(images):
            name = f"{patient:08}_{follow_up:03}.png"
            label = FINDINGS[(patient + follow_up) % len(FINDINGS)]
            sex, view = "FM"[patient % 2], ("PA", "AP")[follow_up % 2]
            line = f"{name},{label},{follow_up},{patient},{40 + patient:03}Y,{sex},{view},2682,2749,0.143,0.143"
            found.append((name, line))
    return found


def make(root: Path, *, layout: str = "published") -> Path:
    """24 images of 12 patients: 18 in train_val_list.txt (val the last 6), 6 in test_list.txt."""
    images = rows()
    table = "labels.csv" if layout == "study" else "Data_Entry_2017.csv"
    write_lines(root / table, [HEADER, *(line + "," for _, line in images)])
    for number, (name, _) in enumerate(images):
        folder = f"images_{1 + number // 8:03}/images" if layout == "published" else "images"
        if layout == "study":
            folder = "test" if number >= 18 else "val" if number >= 12 else "train"
        write_png(root / folder / name)
    if layout != "study":
        write_lines(root / "train_val_list.txt", [name for name, _ in images[:18]])
        write_lines(root / "test_list.txt", [name for name, _ in images[18:]])
    return root

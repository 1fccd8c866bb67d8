"""``CheXpert-v1.0-small`` with its three tables; paths in them begin with that folder."""

from __future__ import annotations

from pathlib import Path

from tests.datasets.miniatures.files import write_lines, write_png

FACTS = "Path,Sex,Age,Frontal/Lateral,AP/PA"
OBSERVATIONS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
VALUES = ("1.0", "0.0", "-1.0", "")


def make(root: Path, *, folder: str = "CheXpert-v1.0-small") -> Path:
    """8 train, 3 val, 3 test patients, each with a frontal and a lateral image; the root holds the folder."""
    base = root / folder
    patient = 0
    for split, table, count in (("train", "train.csv", 8), ("valid", "valid.csv", 3), ("test", "test.csv", 3)):
        lines = [f"{FACTS},{OBSERVATIONS}"]
        for _ in range(count):
            patient += 1
            for number, view in enumerate(("frontal", "lateral"), start=1):
                name = f"{split}/patient{patient:05}/study1/view{number}_{view}.jpg"
                labels = [VALUES[(patient + place) % 4] for place in range(14)]
                if split != "train":
                    labels = ["1.0" if label == "1.0" else "0.0" for label in labels]
                facts = ["Female", str(50 + patient), view.capitalize(), "AP" if view == "frontal" else ""]
                lines.append(",".join([f"{folder}/{name}", *facts, *labels]))
                write_png(base / name)
        write_lines(base / table, lines)
    return root

"""The three layouts in which SARS-CoV-2 CT-scan is around."""

from __future__ import annotations

from pathlib import Path

from tests.datasets.miniatures.files import write_png


def make(root: Path, *, layout: str = "published") -> Path:
    """``published``: images only; ``patients``: a folder a patient; ``study``: split folders with numbers."""
    if layout == "published":
        for number in range(1, 13):
            write_png(root / "COVID" / f"Covid ({number}).png")
            write_png(root / "non-COVID" / f"Non-Covid ({number}).png")
    elif layout == "patients":
        for folder, patients in (("Covid", 8), ("Healthy", 5), ("Others", 8)):
            for patient in range(1, patients + 1):
                for number in (1, 2, 10):
                    write_png(root / folder / f"Patient ({patient})" / f"{number}.png")
    else:
        for split, patients in (("train", (0, 79, 80)), ("val", (5, 100)), ("test", (3, 150))):
            for patient in patients:
                for number in (0, 2, 10):
                    write_png(root / split / str(patient) / f"{number}.png")
    return root

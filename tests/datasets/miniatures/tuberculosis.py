"""``MontgomerySet`` and ``ChinaSet_AllFiles`` with their masks and clinical readings."""

from __future__ import annotations

from pathlib import Path

from tests.datasets.miniatures.files import write_lines, write_mask, write_png


def make_montgomery(root: Path, *, images: int = 12) -> Path:
    """12 images, every fourth with tuberculosis, a mask for each lung."""
    for number in range(1, images + 1):
        name = f"MCUCXR_{number:04}_{int(number % 4 == 0)}"
        write_png(root / "CXR_png" / f"{name}.png")
        write_mask(root / "ManualMask" / "leftMask" / f"{name}.png")
        write_mask(root / "ManualMask" / "rightMask" / f"{name}.png")
        reading = [f"Patient's Sex: {'FM'[number % 2]}", f"Patient's Age: {20 + number:03}Y", "secret finding"]
        write_lines(root / "ClinicalReadings" / f"{name}.txt", reading, newline="\r\n")
    write_lines(root / "NLM-MontgomeryCXRSet-ReadMe.txt", ["read me"])
    (root / "CXR_png" / "Thumbs.db").write_bytes(b"x")
    return root


def make_shenzhen(root: Path, *, images: int = 25, masks: int = 20) -> Path:
    """25 images, the first 20 with a mask."""
    for number in range(1, images + 1):
        name = f"CHNCXR_{number:04}_{int(number > 10)}"
        write_png(root / "CXR_png" / f"{name}.png")
        if number <= masks:
            write_mask(root / "mask" / f"{name}_mask.png")
        write_lines(root / "ClinicalReadings" / f"{name}.txt", [f"male {30 + number}yrs", "secret finding"])
    return root

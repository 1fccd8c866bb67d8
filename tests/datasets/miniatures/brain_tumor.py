"""``1.mat`` …: HDF5 as MATLAB 7.3 writes it, with a user block of 512 bytes and text as 16-bit numbers."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def write_mat(path: Path, label: int, patient: str, seed: int = 0) -> None:
    """One slice of 16 x 16 pixels."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        data = file.create_group("cjdata")
        data["image"] = rng.integers(0, 2000, (16, 16)).astype(np.int16)
        data["label"] = np.array([[float(label)]])
        data["PID"] = np.array([[ord(char)] for char in patient], np.uint16)
        mask = np.zeros((16, 16), np.uint8)
        mask[4:9, 5:11] = 1
        data["tumorMask"] = mask
        data["tumorBorder"] = np.array([[4.0, 5.0, 8.0, 10.0]])
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")


def make(root: Path, *, patients: int = 12, slices: int = 3) -> Path:
    """36 slices of 12 patients, those of a patient one after another."""
    for number in range(patients * slices):
        patient = number // slices
        folder = "brainTumorDataPublic_1" if number < 20 else "brainTumorDataPublic_2"
        write_mat(root / folder / f"{number + 1}.mat", 1 + patient % 3, f"1003{patient:02}", seed=number)
    return root

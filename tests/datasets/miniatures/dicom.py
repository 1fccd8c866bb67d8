"""A tree of real DICOM files: CT series, single radiographs, a file with several frames. Headers name people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

PATIENTS = 6
ROOT_UID = "1.2.826.0.1.3680043.10.999"


def write_dicom(path: Path, *, patient: int, series: str, number: int, modality: str, frames: int = 1) -> None:
    """One file of 8 x 9 pixels, 16 bit; slices lie 2 mm apart along z, their names run against it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    instance = f"{series}.{number + 1}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = Dataset()
    header.file_meta = meta
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, instance
    header.StudyInstanceUID, header.SeriesInstanceUID = f"{ROOT_UID}.{patient}", series
    header.PatientName, header.PatientID = f"Secret^Name{patient}", f"MRN{patient:04}"
    header.PatientBirthDate, header.SeriesDescription = "19700101", "secret description"
    header.Modality, header.InstanceNumber = modality, number + 1
    header.ImagePositionPatient = [0.0, 0.0, 2.0 * number]
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PixelSpacing, header.SliceThickness = [1.0, 1.0], 2.0
    header.Rows, header.Columns, header.SamplesPerPixel = 8, 9, 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    if frames > 1:
        header.NumberOfFrames = frames
    rng = np.random.default_rng([patient, number, frames])
    header.PixelData = rng.integers(0, 4096, (frames, 8, 9)).astype(np.uint16).tobytes()
    header.save_as(path, enforce_file_format=True)


def make_patient(root: Path, patient: int) -> None:
    """A CT series of 4 slices and a radiograph without extension; patient 1 also a file of 3 frames."""
    series = f"{ROOT_UID}.{patient}"
    case = root / f"case{patient}"
    for number in range(4):
        file = case / "ct" / f"IM{9 - number:04}.dcm"
        write_dicom(file, patient=patient, series=f"{series}.1", number=number, modality="CT")
    write_dicom(case / "cr" / "IM0001", patient=patient, series=f"{series}.2", number=0, modality="CR")
    if patient == 1:
        file = case / "us" / "cine.DCM"
        write_dicom(file, patient=patient, series=f"{series}.3", number=0, modality="US", frames=3)


def make(root: Path) -> Path:
    """All six patients."""
    for patient in range(1, PATIENTS + 1):
        make_patient(root, patient)
    return root

"""``dicom``: rows of series, frames and single images; nobody's name or id leaves the headers."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest

import featcache
from featcache.datasets import load_dataset
from featcache.datasets.dicom import series_table
from featcache.datasets.privacy import hashed_patient, patient_salt
from featcache.errors import ConfigurationError, DatasetError
from featcache.imaging import read, select
from featcache.imaging.series import scan_series
from featcache.records import Axis, Selector
from tests.datasets.miniatures import dicom
from tests.datasets.miniatures.files import write_lines
from tests.imaging.test_series import AXIAL, CORONAL, SAGITTAL, write_series


@dataclass(frozen=True)
class Found:
    """A scanned series, put together by hand from the files of the miniature."""

    uid: str
    files: tuple[Path, ...]
    modality: str | None
    patient_id: str | None
    notes: tuple[str, ...] = ()

    @property
    def axis(self) -> Axis | None:
        """The miniature's stacks are axial."""
        return "axial" if len(self.files) > 1 else None


def scanned(root: Path) -> list[Found]:
    """Group by the header's UID and order by position: an independent, plain reading."""
    groups: dict[str, list[tuple[float, Path]]] = {}
    headers = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        groups.setdefault(header.SeriesInstanceUID, []).append((header.ImagePositionPatient[2], path))
        headers[header.SeriesInstanceUID] = header
    return [
        Found(uid, tuple(path for _, path in sorted(files)), headers[uid].Modality, headers[uid].PatientID)
        for uid, files in groups.items()
    ]


def test_series_are_slices_and_other_files_are_images_or_frames(tmp_path: Path) -> None:
    root = dicom.make(tmp_path / "data")
    samples, notes = series_table(root, scanned(root), salt=bytes(32))
    assert notes == ()
    stacked = samples[samples["axis"] == "axial"]
    assert len(stacked) == 24
    assert set(stacked["path"]) == {f"case{patient}/ct" for patient in range(1, 7)}
    first = Selector.from_text(stacked["selector"].iloc[0])
    assert (first.axis, first.index, first.series) == ("axial", 0, f"{dicom.ROOT_UID}.1.1")
    single = samples[samples["volume"].isna()]
    assert single["path"].tolist() == [f"case{patient}/cr/IM0001" for patient in range(1, 7)]
    assert set(single["selector"]) == {""}
    frames = samples[samples["path"] == "case1/us/cine.DCM"]
    assert frames["selector"].tolist() == [f'{{"frame":{index}}}' for index in range(3)]
    assert samples["id"].is_unique


def test_nothing_of_the_header_but_uids_modality_and_hash_is_kept(tmp_path: Path) -> None:
    root = dicom.make(tmp_path / "data")
    samples, _ = series_table(root, scanned(root), salt=bytes(32))
    text = samples.to_csv()
    for secret in ("Secret", "secret", "MRN", "1970"):
        assert secret not in text
    assert samples["patient"].nunique() == dicom.PATIENTS
    kept, _ = series_table(root, scanned(root), salt=None)
    assert set(kept["patient"]) == {f"MRN{patient:04}" for patient in range(1, 7)}


def test_a_modality_that_is_no_code_is_not_kept(tmp_path: Path) -> None:
    root = dicom.make(tmp_path / "data")
    found = Found("1.2.3", (root / "case1/cr/IM0001",), "John Doe's scan", None, ("gap",))
    samples, notes = series_table(root, [found])
    assert samples["modality"].isna().all()
    assert notes == ("1 series have gaps, repeated slices, mixed orientations or a tilt.",)


def test_slices_can_be_chosen(tmp_path: Path) -> None:
    root = dicom.make(tmp_path / "data")
    samples, _ = series_table(root, scanned(root), slices="n:2")
    assert samples[samples["axis"] == "axial"].groupby("volume")["index"].apply(list).tolist() == [[1, 3]] * 6


def test_the_salt_belongs_to_the_home_and_is_private(home: Path, tmp_path: Path) -> None:
    salt = patient_salt()
    assert (len(salt), patient_salt(), patient_salt(home)) == (32, salt, salt)
    file = home / "patient-salt"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["patient-salt"]
    assert patient_salt(tmp_path / "other home") != salt
    file.write_text("damaged")
    with pytest.raises(ConfigurationError, match="is damaged"):
        patient_salt()


def test_hashes_tell_patients_apart_and_depend_on_the_salt() -> None:
    assert hashed_patient(" 12 ", bytes(32)) == hashed_patient("12", bytes(32))
    assert len({hashed_patient(str(number), bytes(32)) for number in range(1000)}) == 1000
    assert hashed_patient("12", bytes(32)) != hashed_patient("12", b"\1" * 32)


@pytest.mark.parametrize("key", ["patient", "series", "path"])
def test_labels_join_by_patient_series_or_path(tmp_path: Path, key: str) -> None:
    root = dicom.make(tmp_path / "data")
    names = {
        "patient": [f"MRN{patient:04}" for patient in range(1, 7)],
        "series": [f"{dicom.ROOT_UID}.{patient}.1" for patient in range(1, 7)],
        "path": [f"case{patient}\\ct" for patient in range(1, 7)],
    }[key]
    lines = [f"{key},label", *(f"{name},{'ab'[place % 2]}" for place, name in enumerate(names))]
    write_lines(tmp_path / "labels.csv", lines, bom=True)
    dataset = load_dataset("dicom", root=root, table=tmp_path / "labels.csv")
    stacked = dataset.samples[dataset.samples["axis"] == "axial"]
    assert stacked["label"].tolist() == [label for label in "ababab" for _ in range(4)]
    assert dataset.tasks[0].classes == ("a", "b")


def test_unknown_patients_of_a_table_are_counted_but_not_printed(tmp_path: Path) -> None:
    root = dicom.make(tmp_path / "data")
    write_lines(tmp_path / "labels.csv", ["patient,label", "MRN9999,a"])
    with pytest.raises(DatasetError, match="1 values of 'patient'") as caught:
        load_dataset("dicom", root=root, table=tmp_path / "labels.csv")
    assert "MRN9999" not in str(caught.value)


@pytest.mark.parametrize(
    ("orientation", "axis"), [(AXIAL, "axial"), (CORONAL, "coronal"), (SAGITTAL, "sagittal")], ids=str
)
def test_a_stack_is_sliced_as_it_was_acquired(tmp_path: Path, orientation: tuple[int, ...], axis: str) -> None:
    """Slice i, read through its selector, shows the values of file i of the series."""
    write_series(tmp_path, orientation, [0, 2, 4, 6])
    dataset = load_dataset("dicom", root=tmp_path)
    assert dataset.samples["axis"].tolist() == [axis] * 4
    (series,) = scan_series(tmp_path)
    for row, file in enumerate(series.files):
        sample = dataset.sample(row)
        plane = select(read(sample.path, sample.selector), sample.selector)
        np.testing.assert_array_equal(np.sort(plane, axis=None), np.sort(read(file).array, axis=None))
    report = featcache.extract("pixels", dataset, registry_name="dicom", image_size=16)
    assert (report.failed, report.rows) == (0, 4)
    series.files[1].write_bytes(series.files[1].read_bytes()[:-3])
    assert featcache.extract("pixels", dataset, registry_name="dicom", image_size=16).failed == 4

"""``dicom``: rows of series, frames and single images; nobody's name or id leaves the headers."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

import featcache
from featcache.datasets import load_dataset
from featcache.datasets.dicom import series_table
from featcache.datasets.privacy import hashed_patient, patient_salt
from featcache.errors import ConfigurationError, DatasetError
from featcache.imaging import read, select
from featcache.imaging.series import Series, scan_series
from featcache.records import Selector
from tests.datasets.miniatures import dicom
from tests.datasets.miniatures.files import write_lines
from tests.imaging.test_dicom import make, save
from tests.imaging.test_series import AXIAL, CORONAL, SAGITTAL, write_series


def scanned(root: Path) -> list[Series]:
    """Group by the header's UID and order by position: an independent, plain reading."""
    groups: dict[str, list[tuple[float, Path, pydicom.Dataset]]] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        groups.setdefault(header.SeriesInstanceUID, []).append((header.ImagePositionPatient[2], path, header))
    return [found(uid, sorted(files, key=lambda file: file[0])) for uid, files in groups.items()]


def found(uid: str, files: list[tuple[float, Path, pydicom.Dataset]], **changes: object) -> Series:
    """A series of the miniature, whose stacks are axial."""
    header = files[0][2]
    facts = {
        "uid": uid,
        "folder": files[0][1].parent,
        "files": tuple(path for _, path, _ in files),
        "frames": tuple(int(header.get("NumberOfFrames", 1)) for _, _, header in files),
        "modality": header.Modality,
        "axis": "axial" if len(files) > 1 else None,
        "shape": None,
        "spacing": None,
        "notes": (),
        "secondary_captures": 0,
        "patient_id": header.PatientID,
        "group": (header.PatientID, header.StudyInstanceUID, uid),
    }
    return Series(**facts | changes)  # type: ignore[arg-type]


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
    path = root / "case1/cr/IM0001"
    odd = found("1.2.3", [(0.0, path, pydicom.dcmread(path))], modality="John Doe's scan", notes=("gap",))
    samples, notes = series_table(root, [odd])
    assert samples["modality"].isna().all()
    assert notes == ("1 series are not as they should be: case1/cr/3 (gap).",)


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


def test_a_series_in_several_folders_is_one_volume(tmp_path: Path) -> None:
    """One folder a slice, as some archives export; the same rows and pixels as from one folder."""
    (tmp_path / "flat").mkdir()
    files = write_series(tmp_path / "flat", AXIAL, [0, 2, 4, 6])
    expected = read(tmp_path / "flat", Selector(series="1.2.3.4"))
    for place, file in enumerate(files):
        folder = tmp_path / "deep" / "study" / f"IM{(place * 3) % 4}"
        folder.mkdir(parents=True)
        file.rename(folder / "image")
    dataset = load_dataset("dicom", root=tmp_path / "deep")
    assert dataset.samples["path"].tolist() == ["study"] * 4
    assert dataset.samples["volume"].tolist() == ["1.2.3.4"] * 4
    image = read(dataset.sample(0).path, dataset.sample(0).selector)
    np.testing.assert_array_equal(image.array, expected.array)
    report = featcache.extract("pixels", dataset, registry_name="dicom", image_size=16)
    assert (report.failed, report.rows) == (0, 4)
    assert featcache.extract("pixels", dataset, registry_name="dicom", image_size=16).computed == 0


def test_volumes_of_two_splits_or_of_two_time_points_stay_apart(tmp_path: Path) -> None:
    for name, depths in (("train/a", [0, 2]), ("test/b", [4, 6])):
        (tmp_path / "split" / name).mkdir(parents=True)
        write_series(tmp_path / "split" / name, AXIAL, depths)
    assert load_dataset("dicom", root=tmp_path / "split", allow_patient_overlap=True).split_origin == "folder"
    for name in ("t1", "t2"):
        (tmp_path / "times" / name).mkdir(parents=True)
        write_series(tmp_path / "times" / name, AXIAL, [0, 2])
    assert set(load_dataset("dicom", root=tmp_path / "times").samples["path"]) == {"t1", "t2"}


def test_what_is_no_image_is_left_out_with_its_reason(tmp_path: Path) -> None:
    names = {
        "rtdose.dcm": "1 RT dose",
        "rtstruct.dcm": "1 RT structure set",
        "rtplan.dcm": "RT plan or record",
        "liver_1frame.dcm": "1 segmentation, registration or fiducials",
        "test-SR.dcm": "1 report",
        "waveform_ecg.dcm": "1 waveform",
        "DICOMDIR": "1 DICOMDIR",
    }
    for name in names:
        source = Path(str(get_testdata_file(name)))
        (tmp_path / name).write_bytes(source.read_bytes())
    with pytest.raises(DatasetError, match="no DICOM images; 1 DICOMDIR, 1 RT dose"):
        load_dataset("dicom", root=tmp_path)
    pdf = make(np.zeros((4, 4), np.uint8), SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1")
    save(pdf, tmp_path / "letter.dcm")
    for name in ("CT_small.dcm", "SC_rgb_small_odd.dcm"):
        (tmp_path / name).write_bytes(Path(str(get_testdata_file(name))).read_bytes())
    dataset = load_dataset("dicom", root=tmp_path)
    assert set(dataset.samples["id"]) == {"CT_small.dcm", "SC_rgb_small_odd.dcm"}
    (note,) = [note for note in dataset.notes if "no images" in note]
    assert note.startswith("8 DICOM files")
    for said in (*names.values(), "1 encapsulated document"):
        assert said in note
    assert any("1 files are secondary captures" in note for note in dataset.notes)


def test_damaged_files_keep_a_row_and_go_into_quarantine(tmp_path: Path) -> None:
    root = dicom.make(tmp_path / "data")
    (root / "case1" / "empty.dcm").write_bytes(b"")
    (root / "case2" / "page.DCM").write_bytes(b"<!DOCTYPE html>")
    dataset = load_dataset("dicom", root=root)
    assert {"case1/empty.dcm", "case2/page.DCM"} <= set(dataset.samples["id"])
    assert any("2 DICOM files or folders are damaged" in note for note in dataset.notes)
    report = featcache.extract("pixels", dataset, registry_name="dicom", image_size=16)
    assert {(failure.path, bool(failure.remedy)) for failure in report.failures} == {
        ("case1/empty.dcm", True),
        ("case2/page.DCM", True),
    }
    assert report.failed == 2


@pytest.mark.parametrize("last", ["SOPInstanceUID", "Modality", "SamplesPerPixel"])
def test_an_image_whose_header_was_cut_before_its_size_is_quarantined_by_name(tmp_path: Path, last: str) -> None:
    source = Path(str(get_testdata_file("CT_small.dcm")))
    header = pydicom.dcmread(source)
    whole = header[last]
    following = next(tag for tag in sorted(header.keys()) if tag > whole.tag)
    content = source.read_bytes()
    place = content.index(struct.pack("<HH", following.group, following.element), 132)
    (tmp_path / "cut.dcm").write_bytes(content[:place])
    (tmp_path / "good.dcm").write_bytes(content)
    report = featcache.extract("pixels", "dicom", root=tmp_path)
    assert (report.rows, report.failed) == (1, 1)
    assert report.failures[0].path == "cut.dcm"
    assert "ends before its pixels" in report.failures[0].remedy

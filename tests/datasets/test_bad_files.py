"""One bad file never ends a run: every kind of damage that the project promises to survive, through an extraction."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

import featcache
from featcache.datasets import load_dataset
from featcache.errors import DatasetError
from tests.datasets.miniatures import dicom
from tests.datasets.miniatures.files import write_lines, write_png, write_volume


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises a picture and which has next to no pixels (PNG specification, 11.2.2)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten good pictures of two classes."""
    for label in ("a", "b"):
        for number in range(5):
            write_png(tmp_path / label / f"{number}.png", seed=number)
    return tmp_path


def extracted(root: Path, name: str, **options: object) -> featcache.ExtractionReport:
    return featcache.extract("pixels", name, root=root, image_size=16, **options)  # type: ignore[arg-type]


BAD = {
    "truncated": (lambda good: good[: len(good) // 2], "truncated"),
    "empty": (lambda good: b"", "empty (0 bytes)"),
    "page": (lambda good: b"<!DOCTYPE html><html>404</html>", "no image"),
    "bomb": (lambda good: png_header(50_000, 50_000), "more than the limit"),
}


def test_bad_pictures_are_quarantined_by_name_and_the_others_embedded(pictures: Path) -> None:
    good = (pictures / "a" / "0.png").read_bytes()
    for name, (damage, _) in BAD.items():
        (pictures / "b" / f"{name}.PNG").write_bytes(damage(good))
    report = extracted(pictures, "folder")
    assert report.rows == 10
    found = {Path(failure.path).stem: failure for failure in report.failures}
    assert found.keys() == BAD.keys()
    for name, (_, reason) in BAD.items():
        assert reason in found[name].reason
        assert found[name].remedy
    assert extracted(pictures, "folder").computed == 0


def test_files_that_are_missing_or_may_not_be_read_are_quarantined(pictures: Path) -> None:
    lines = ["path,label", *(f"a/{number}.png,a" for number in range(5)), "a/gone.png,b", "a\\0.png,a"]
    write_lines(pictures / "t.csv", [*lines[:-1]], bom=True, newline="\r\n")
    report = extracted(pictures, "table")
    assert (report.rows, [failure.path for failure in report.failures]) == (5, ["a/gone.png"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_that_a_table_names_is_quarantined_and_not_waited_for(pictures: Path) -> None:
    os.mkfifo(pictures / "a" / "pipe.png")
    write_lines(pictures / "t.csv", ["path,label", *(f"a/{number}.png,a" for number in range(5)), "a/pipe.png,b"])
    report = extracted(pictures, "table")
    assert (report.rows, [failure.path for failure in report.failures]) == (5, ["a/pipe.png"])
    assert "pipe" in report.failures[0].reason


def test_constant_pictures_are_embedded_with_a_warning_and_constant_slices_without(tmp_path: Path) -> None:
    for number in range(3):
        write_png(tmp_path / "p" / "a" / f"{number}.png", seed=number)
    write_png(tmp_path / "p" / "b" / "flat.png", np.full((12, 10), 7, np.uint8))
    report = extracted(tmp_path / "p", "folder")
    assert (report.rows, report.failed) == (4, 0)
    assert any("constant" in note or "equal" in note for note in report.notes), report.notes
    volume = np.zeros((6, 6, 5), np.int16)
    volume[..., 2] = np.arange(36).reshape(6, 6)
    (tmp_path / "v").mkdir()
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v" / "x.nii.gz")
    report = extracted(tmp_path / "v", "nifti")
    assert (report.rows, report.failed) == (5, 0)
    assert not any("constant" in note for note in report.notes)


def test_bad_volumes_are_quarantined_by_name_and_the_others_embedded(tmp_path: Path) -> None:
    for name in ("good1", "good2"):
        write_volume(tmp_path / f"{name}.nii.gz")
    content = (tmp_path / "good1.nii.gz").read_bytes()
    (tmp_path / "truncated.NII.GZ").write_bytes(content[:-30])
    (tmp_path / "empty.nii").write_bytes(b"")
    (tmp_path / "page.nii").write_bytes(b"<!DOCTYPE html>" * 40)
    broken = np.ones((4, 4, 2), np.float32)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        broken[1, 1, 1] = value
        nibabel.save(nibabel.Nifti1Image(broken, np.eye(4)), tmp_path / f"{name}.nii")
    image = nibabel.Nifti1Image(np.ones((4, 4, 2), np.int16), None)
    image.header.set_sform(np.diag([1.0, 1, 0, 1]), code=1)
    image.header.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "flat.nii")
    report = extracted(tmp_path, "nifti")
    assert report.rows == 12
    names = {Path(failure.path).name for failure in report.failures}
    assert names == {"truncated.NII.GZ", "empty.nii", "page.nii", "nan.nii", "inf.nii", "flat.nii"}
    assert all(failure.remedy for failure in report.failures)
    assert not any(str(tmp_path) in note for note in report.notes)


@pytest.mark.parametrize("dimensions", [(30_000, 30_000, 30_000), (8, 7, 60), (-8, 7, 6), (0, 7, 6)])
@pytest.mark.parametrize("name", ["odd.nii", "odd.nii.gz"])
def test_a_header_that_promises_other_slices_gives_one_quarantined_row(
    tmp_path: Path, name: str, dimensions: tuple[int, int, int]
) -> None:
    write_volume(tmp_path / "good.nii.gz")
    write_volume(tmp_path / "odd.nii")
    content = bytearray((tmp_path / "odd.nii").read_bytes())
    content[42:48] = struct.pack("<hhh", *dimensions)  # dim[1..3] of the NIfTI-1 header
    (tmp_path / "odd.nii").unlink()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    report = extracted(tmp_path, "nifti")
    assert report.rows == 6
    failed = [failure.path for failure in report.failures]
    # Of a compressed file only a size beyond all compression is seen without unpacking it.
    assert failed == [name] if not name.endswith(".gz") or dimensions != (8, 7, 60) else set(failed) == {name}


sitk = pytest.importorskip("SimpleITK")


def without_notes(path: Path) -> sitk.Image:
    """A volume without the fields of its NIfTI header, of which ITK would warn."""
    volume = sitk.ReadImage(str(path))
    for key in volume.GetMetaDataKeys():
        volume.EraseMetaData(key)
    return volume


def test_metaimage_and_nrrd_volumes_and_their_labels_are_slices_like_those_of_nifti(tmp_path: Path) -> None:
    write_volume(tmp_path / "n" / "images" / "a.nii.gz", (8, 7, 6), orientation="RAS")
    write_volume(tmp_path / "n" / "labels" / "a.nii.gz", (8, 7, 6), values=2, orientation="RAS")
    for folder in ("images", "labels"):
        volume = without_notes(tmp_path / "n" / folder / "a.nii.gz")
        for ending in ("mha", "MHD", "nrrd"):
            (tmp_path / ending / folder).mkdir(parents=True)
            sitk.WriteImage(volume, str(tmp_path / ending / folder / f"a.{ending.lower()}"))
    file = tmp_path / "MHD" / "images" / "a.mhd"
    file.rename(file.with_suffix(".MHD"))
    expected = featcache.open(extracted(tmp_path / "n", "nifti", slices="foreground").store)
    assert expected.samples["index"].tolist() == [1, 2, 4]
    for ending in ("mha", "MHD", "nrrd"):
        report = extracted(tmp_path / ending, "nifti", slices="foreground")
        assert (report.rows, report.failed) == (3, 0), report.failures
        found = featcache.open(report.store)
        assert found.samples["mask"].notna().all()
        np.testing.assert_array_equal(found["cls"][:], expected["cls"][:])


@pytest.mark.parametrize("target", ["/etc/hostname", "../../secret.raw", "gone.raw"])
def test_a_header_that_names_other_files_as_its_voxels_is_quarantined(tmp_path: Path, target: str) -> None:
    write_volume(tmp_path / "good.nii")
    sitk.WriteImage(without_notes(tmp_path / "good.nii"), str(tmp_path / "bad.mhd"))
    header = (tmp_path / "bad.mhd").read_text()
    (tmp_path / "bad.mhd").write_text(header.replace("bad.raw", target))
    sitk.WriteImage(without_notes(tmp_path / "good.nii"), str(tmp_path / "odd.nrrd"))
    content = (tmp_path / "odd.nrrd").read_bytes().replace(b"\n\n", f"\ndata file: {target}\n\n".encode(), 1)
    (tmp_path / "odd.nrrd").write_bytes(content)
    report = extracted(tmp_path, "nifti")
    assert report.rows == 6
    assert {failure.path for failure in report.failures} == {"bad.mhd", "odd.nrrd"}
    assert all(failure.remedy for failure in report.failures)


def test_one_name_as_nii_and_as_nii_gz_is_two_volumes(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", seed=1)
    write_volume(tmp_path / "a.nii.gz", seed=2)
    report = extracted(tmp_path, "nifti")
    assert (report.rows, report.failed) == (12, 0)
    assert set(featcache.open(report.store).samples["volume"]) == {"a.nii", "a.nii.gz"}


@pytest.mark.parametrize("name", ["a.NII.GZ", "a.Nii.gz", "a.nii.Gz", "b.NII", "b.Nii"])
def test_extensions_of_volumes_may_be_in_any_case(tmp_path: Path, name: str) -> None:
    write_volume(tmp_path / name.lower(), orientation="RAS")
    (tmp_path / name.lower()).rename(tmp_path / name)
    report = extracted(tmp_path, "nifti")
    assert (report.rows, report.failed) == (6, 0)


def test_bad_dicom_files_are_quarantined_by_name_and_the_others_embedded(tmp_path: Path) -> None:
    for patient in range(1, 7):
        dicom.make_patient(tmp_path, patient)
    good = (tmp_path / "case1" / "cr" / "IM0001").read_bytes()
    before = extracted(tmp_path, "dicom", dataset_name="before")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "half.DCM").write_bytes(good[: len(good) - 50])
    (bad / "header.dcm").write_bytes(good[:200])
    (bad / "empty.dcm").write_bytes(b"")
    (bad / "page.dcm").write_bytes(b"<!DOCTYPE html>" * 50)
    (bad / "gone.dcm").symlink_to(bad / "nowhere.dcm")
    (bad / "itself.dcm").symlink_to(bad / "itself.dcm")
    (bad / "circle").symlink_to(tmp_path)
    (bad / "readme").symlink_to(bad / "nowhere")
    if hasattr(os, "mkfifo"):
        os.mkfifo(bad / "pipe.dcm")
    report = extracted(tmp_path, "dicom", dataset_name="after")
    assert report.rows == before.rows
    names = {Path(failure.path).name for failure in report.failures}
    assert names == {"half.DCM", "header.dcm", "empty.dcm", "page.dcm", "gone.dcm", "itself.dcm"}
    assert all(failure.remedy for failure in report.failures)
    assert any("1 links to folders were not followed" in note for note in report.notes)


def test_a_series_with_a_gap_is_named_with_its_place(tmp_path: Path) -> None:
    for number in (0, 1, 2, 5, 6):
        place = tmp_path / "case2" / "ct" / f"{number}.dcm"
        dicom.write_dicom(place, patient=2, series="1.2.3", number=number, modality="CT")
    notes = load_dataset("dicom", root=tmp_path).notes
    assert any("case2/ct/3 (" in note and "gap" in note.lower() for note in notes), notes


def test_labels_of_another_size_and_unknown_volumes_are_said(tmp_path: Path) -> None:
    write_volume(tmp_path / "images" / "a.nii.gz")
    write_volume(tmp_path / "labels" / "a.nii.gz", (8, 7, 5), values=2)
    write_volume(tmp_path / "images" / "b.nii.gz")
    dataset = load_dataset("nifti", root=tmp_path)
    assert dataset.samples["mask"].isna().all()
    assert any("1 masks do not fit" in note and "(8, 7, 5)" in note for note in dataset.notes)
    write_lines(tmp_path / "t.csv", ["volume,label", "a,x", "zebra,y"])
    with pytest.raises(DatasetError, match="zebra"):
        load_dataset("nifti", root=tmp_path, table="t.csv")


def test_links_in_circles_do_not_keep_a_folder_busy(pictures: Path) -> None:
    (pictures / "a" / "again").symlink_to(pictures, target_is_directory=True)
    (pictures / "a" / "self.png").symlink_to(pictures / "a" / "self.png")
    report = extracted(pictures, "folder")
    assert report.rows == 10
    assert [failure.path for failure in report.failures] == ["a/self.png"]
    assert any("links to folders were not followed" in note for note in report.notes)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_picture_is_quarantined(pictures: Path) -> None:
    (pictures / "a" / "0.png").chmod(0)
    report = extracted(pictures, "folder")
    assert (report.rows, [failure.path for failure in report.failures]) == (9, ["a/0.png"])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["nifti", "dicom"])
def test_an_unreadable_folder_is_quarantined_and_the_others_embedded(tmp_path: Path, name: str) -> None:
    for number in range(3):
        if name == "nifti":
            write_volume(tmp_path / f"p{number}" / "scan.nii.gz", seed=number)
        else:
            dicom.make_patient(tmp_path, number + 2)
    folder = sorted(tmp_path.iterdir())[0]
    folder.chmod(0)
    try:
        report = extracted(tmp_path, name)
    finally:
        folder.chmod(0o755)
    assert report.rows > 0
    assert [failure.path for failure in report.failures] == [folder.name]
    assert report.failures[0].remedy


def test_pages_of_a_tiff_are_rows_of_one_split_with_the_label_of_their_file(pictures: Path) -> None:
    rng = np.random.default_rng(0)
    stacks = {number: rng.integers(0, 256, (3, 12, 10), dtype=np.uint8) for number in range(5)}
    for number, stack in stacks.items():
        pages = [Image.fromarray(page) for page in stack]
        pages[0].save(pictures / "a" / f"stack{number}.TIF", save_all=True, append_images=pages[1:])
    (pictures / "b" / "half.tif").write_bytes((pictures / "a" / "stack0.TIF").read_bytes()[:100])
    report = extracted(pictures, "folder")
    assert (report.rows, [failure.path for failure in report.failures]) == (25, ["b/half.tif"])
    store = featcache.open(report.store)
    samples = store.samples
    pages = samples[samples["volume"].notna()]
    assert pages["id"].tolist()[:3] == ["a/stack0.TIF_000", "a/stack0.TIF_001", "a/stack0.TIF_002"]
    assert (pages.groupby("volume")["split"].nunique() == 1).all()
    assert set(pages["label"]) == {"a"}
    Image.fromarray(stacks[3][2]).save(pictures / "b" / "same.png")
    store = featcache.open(extracted(pictures, "folder").store)
    rows = store.samples["id"].tolist()
    np.testing.assert_array_equal(
        store["cls"][:][rows.index("a/stack3.TIF_002")], store["cls"][:][rows.index("b/same.png")]
    )


def test_a_page_of_a_tiff_has_the_same_page_of_its_mask(tmp_path: Path) -> None:
    for folder, levels in (("images/x", (10, 20)), ("masks/images/x", (0, 1))):
        (tmp_path / folder).mkdir(parents=True)
        pages = [Image.fromarray(np.full((12, 10), level, np.uint8)) for level in levels]
        pages[0].save(tmp_path / folder / "scan.tif", save_all=True, append_images=pages[1:])
    dataset = load_dataset("folder", root=tmp_path, masks="masks")
    assert dataset.samples["selector"].tolist() == ['{"frame":0}', '{"frame":1}']
    assert dataset.samples["mask_selector"].tolist() == dataset.samples["selector"].tolist()


def test_the_good_pictures_are_what_they_were(pictures: Path) -> None:
    """The damage beside it does not change a row."""
    before = extracted(pictures, "folder")
    clean = featcache.open(before.store)["cls"][:]
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(pictures / "b" / "later.png")
    (pictures / "b" / "later.png").write_bytes((pictures / "b" / "later.png").read_bytes()[:40])
    after = extracted(pictures, "folder")
    assert (after.computed, after.failed) == (0, 1)
    np.testing.assert_array_equal(featcache.open(after.store)["cls"][:][:10], clean)

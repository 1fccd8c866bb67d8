"""Every dataset of the registry passes the contract on a miniature of its published tree."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from featcache.datasets import DATASETS
from tests.datasets.contract import DatasetContract
from tests.datasets.miniatures import brain_tumor, chexpert, dicom, medmnist, nih, sars_cov_2, tuberculosis, volumes
from tests.datasets.miniatures.files import write_lines, write_png


class TestAmos(DatasetContract):
    name = "amos"
    counts = (40, 10, 25)

    def make(self, root: Path) -> Path:
        return volumes.make_amos(root)


class TestBrainTumor(DatasetContract):
    name = "brain_tumor"
    counts = (15, 9, 12)

    def make(self, root: Path) -> Path:
        return brain_tumor.make(root)


class TestBtcv(DatasetContract):
    name = "btcv"
    counts = (12, 12, 12)

    def make(self, root: Path) -> Path:
        return volumes.make_btcv(root)


class TestBtcvAveraged(TestBtcv):
    def make(self, root: Path) -> Path:
        return volumes.make_btcv(root, layout="averaged")


class TestChexpert(DatasetContract):
    name = "chexpert"
    counts = (8, 3, 3)

    def make(self, root: Path) -> Path:
        return chexpert.make(root)


class TestDicom(DatasetContract):
    name = "dicom"
    counts = (18, 5, 10)

    def make(self, root: Path) -> Path:
        for patient in range(1, 7):
            split = ("train", "train", "val", "train", "test", "test")[patient - 1]
            dicom.make_patient(root / split, patient)
        return root


class TestFolder(DatasetContract):
    name = "folder"
    counts = (12, 4, 4)

    def make(self, root: Path) -> Path:
        for number in range(10):
            write_png(root / "a" / f"{number}.png")
            write_png(root / "b" / f"{number}.PNG")
        return root


class TestMedmnist(DatasetContract):
    name = "medmnist"
    counts = (8, 4, 4)

    def make(self, root: Path) -> Path:
        return medmnist.make(root)


class TestMedmnistMultilabel(TestMedmnist):
    def make(self, root: Path) -> Path:
        return medmnist.make(root, name="chestmnist", labels=14)


class TestMontgomery(DatasetContract):
    name = "montgomery"
    counts = (6, 2, 4)

    def make(self, root: Path) -> Path:
        return tuberculosis.make_montgomery(root)


class TestMsdHeart(DatasetContract):
    name = "msd_heart"
    counts = (36, 11, 12)

    def make(self, root: Path) -> Path:
        return volumes.make_heart(root)


class TestMsdHeartOfTheStudy(DatasetContract):
    name = "msd_heart"
    counts = (8, 4, 4)

    def make(self, root: Path) -> Path:
        return volumes.make_planes(root)


class TestMsdHippocampus(DatasetContract):
    name = "msd_hippocampus"
    counts = (32, 11, 16)

    def make(self, root: Path) -> Path:
        return volumes.make_hippocampus(root)


class TestMsdSpleen(DatasetContract):
    name = "msd_spleen"
    counts = (22, 11, 26)

    def make(self, root: Path) -> Path:
        return volumes.make_spleen(root)


class TestNifti(DatasetContract):
    name = "nifti"
    options: ClassVar = {"table": "labels.csv", "keep_columns": ("site",)}
    counts = (24, 8, 8)

    def make(self, root: Path) -> Path:
        return volumes.make_nifti(root)


class TestNih(DatasetContract):
    name = "nih"
    options = nih.OPTIONS
    counts = (12, 6, 6)

    def make(self, root: Path) -> Path:
        return nih.make(root)


class TestNihInOneFolder(TestNih):
    def make(self, root: Path) -> Path:
        return nih.make(root, layout="one folder")


class TestNihOfTheStudy(TestNih):
    def make(self, root: Path) -> Path:
        return nih.make(root, layout="study")


class TestSarsCov2(DatasetContract):
    name = "sars_cov_2"
    counts = (14, 5, 5)

    def make(self, root: Path) -> Path:
        return sars_cov_2.make(root)


class TestSarsCov2WithPatients(DatasetContract):
    name = "sars_cov_2"
    counts = (27, 15, 21)

    def make(self, root: Path) -> Path:
        return sars_cov_2.make(root, layout="patients")


class TestSarsCov2OfTheStudy(DatasetContract):
    name = "sars_cov_2"
    counts = (9, 6, 6)

    def make(self, root: Path) -> Path:
        return sars_cov_2.make(root, layout="study")


class TestShenzhen(DatasetContract):
    name = "shenzhen"
    counts = (12, 4, 4)

    def make(self, root: Path) -> Path:
        return tuberculosis.make_shenzhen(root)


class TestTable(DatasetContract):
    name = "table"
    counts = (4, 4, 4)

    def make(self, root: Path) -> Path:
        lines = ["path,label,split,patient"]
        for number in range(12):
            write_png(root / "images" / f"{number}.png")
            split = ("train", "val", "test")[number % 3]
            lines.append(f"images\\{number}.png,{'ab'[number // 3 % 2]},{split},p{number}")
        write_lines(root / "labels.csv", lines, bom=True)
        return root


def test_every_dataset_has_a_contract() -> None:
    tested = {contract.name for contract in every_subclass(DatasetContract)}
    own_tests = {
        "brain_lobes",
        "brain_regions",
        "brain_tissue",
    }  # made from installed packages, tested against their maps
    assert tested | own_tests == set(DATASETS.names())


def every_subclass(parent: type[DatasetContract]) -> list[type[DatasetContract]]:
    found = []
    for child in parent.__subclasses__():
        found += [child, *every_subclass(child)]
    return found


@pytest.mark.parametrize("name", ["nih", "msd_heart", "chexpert"])
def test_published_counts_are_data(name: str) -> None:
    counts = dict(DATASETS[name].expected["samples"])
    whole = counts.pop("all", None)
    assert set(counts) == {"train", "val", "test"}
    assert whole in (None, sum(counts.values()))

"""What is particular to each published dataset: labels, options, extra columns, what is never kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featcache.datasets import load_dataset
from featcache.datasets.chexpert import COMPETITION
from featcache.datasets.nih import FINDINGS
from featcache.errors import ConfigurationError, DatasetError
from featcache.records import Selector
from tests.datasets.miniatures import brain_tumor, chexpert, medmnist, nih, sars_cov_2, tuberculosis, volumes
from tests.datasets.miniatures.files import write_lines, write_png


def test_nih_labels_are_those_of_the_table(tmp_path: Path) -> None:
    root = nih.make(tmp_path)
    samples = load_dataset("nih", root=root, **nih.OPTIONS).samples
    for name, line in nih.rows():
        row = samples[samples["id"] == name].iloc[0]
        text = line.split(",")[1].split("|")
        assert [finding for finding in FINDINGS if row[finding]] == [f for f in text if f != "No Finding"]
        assert (row["age"], row["sex"], row["view"]) == (int(line.split(",")[4][:3]), *line.split(",")[5:7])
        assert row["patient"] == str(int(name[:8]))


def test_nih_counts_no_finding_as_a_fifteenth_class_on_request(tmp_path: Path) -> None:
    dataset = load_dataset("nih", root=nih.make(tmp_path), no_finding=True, **nih.OPTIONS)
    assert dataset.tasks[0].classes == (*FINDINGS, "No Finding")
    assert (dataset.samples["No Finding"] == (dataset.samples[list(FINDINGS)].sum(axis=1) == 0)).all()


def test_nih_val_is_the_end_of_the_list(tmp_path: Path) -> None:
    root = nih.make(tmp_path)
    samples = load_dataset("nih", root=root, **nih.OPTIONS).samples
    lines = (root / "train_val_list.txt").read_text().split()
    assert samples["id"][samples["split"] == "val"].tolist() == sorted(lines[-6:])


def test_nih_without_lists_is_split_by_patient(tmp_path: Path) -> None:
    root = nih.make(tmp_path)
    (root / "test_list.txt").unlink()
    dataset = load_dataset("nih", root=root)
    assert dataset.split_origin == "seeded"
    assert any("not the official split" in note for note in dataset.notes)


def test_nih_says_which_images_are_missing_and_which_are_too_many(tmp_path: Path) -> None:
    root = nih.make(tmp_path)
    (root / "images_001" / "images" / "00000001_000.png").unlink()
    write_png(root / "images_002" / "images" / "99999999_000.png")
    dataset = load_dataset("nih", root=root, **nih.OPTIONS)
    assert dataset.missing == ("00000001_000.png",)
    assert dataset.surplus == ("images_002/images/99999999_000.png",)
    assert len(dataset.samples) == 23


@pytest.mark.parametrize(("policy", "value"), [("zeros", 0), ("ones", 1), ("ignore", pd.NA)])
def test_chexpert_uncertain_labels_follow_the_policy(tmp_path: Path, policy: str, value: object) -> None:
    root = chexpert.make(tmp_path)
    table = pd.read_csv(root / "CheXpert-v1.0-small" / "train.csv")
    table = table[table["Path"].str.contains("frontal")].reset_index(drop=True)
    samples = load_dataset("chexpert", root=root, uncertain=policy).samples
    samples = samples[samples["split"] == "train"].reset_index(drop=True)
    for name in COMPETITION:
        published = table[name]
        assert samples[name][published == 1].eq(1).all()
        assert samples[name][(published == 0) | published.isna()].eq(0).all()
        unsure = samples[name][published == -1]
        assert unsure.isna().all() if value is pd.NA else unsure.eq(value).all()


def test_chexpert_options_choose_views_and_labels(tmp_path: Path) -> None:
    root = chexpert.make(tmp_path)
    everything = load_dataset("chexpert", root=root, views="all", observations="all", uncertain_label=True)
    assert len(everything.samples) == 28
    assert len(everything.tasks[0].classes) == 15
    assert set(everything.samples["view"]) == {"AP", "Lateral"}
    assert len(load_dataset("chexpert", root=root / "CheXpert-v1.0-small").samples) == 14
    with pytest.raises(ConfigurationError, match="zeros, ones, ignore"):
        load_dataset("chexpert", root=root, uncertain="maybe")


def test_chexpert_without_a_test_table_says_so(tmp_path: Path) -> None:
    root = chexpert.make(tmp_path)
    (root / "CheXpert-v1.0-small" / "test.csv").unlink()
    assert "test.csv is not there: no test split." in load_dataset("chexpert", root=root).notes


def test_brain_tumor_patients_are_split_in_the_order_of_their_first_appearance(tmp_path: Path) -> None:
    samples = load_dataset("brain_tumor", root=brain_tumor.make(tmp_path)).samples
    assert samples["id"].tolist() == [str(number) for number in range(1, 37)]
    # 12 of 233 patients: 4 for test (0, 3, 6, 9), 3 of the rest for val (0, 2.67 -> 3, 5.33 -> 5).
    of = samples.drop_duplicates("patient")["split"].tolist()
    assert [place for place, split in enumerate(of) if split == "test"] == [0, 3, 6, 9]
    assert [place for place, split in enumerate(of) if split == "val"] == [1, 5, 8]
    assert samples["tumor"].tolist()[:9] == ["meningioma"] * 3 + ["glioma"] * 3 + ["pituitary"] * 3
    assert samples["mask"].equals(samples["path"])
    assert Selector.from_text(samples["mask_selector"][0]).array == "tumorMask"


def test_brain_tumor_keeps_an_unreadable_file_without_a_label(tmp_path: Path) -> None:
    root = brain_tumor.make(tmp_path)
    (root / "brainTumorDataPublic_1" / "5.mat").write_bytes(b"<html>")
    dataset = load_dataset("brain_tumor", root=root)
    assert len(dataset.samples) == 36
    assert dataset.samples["tumor"].isna().sum() == 1
    assert any("5.mat" in note for note in dataset.notes)


def test_sars_cov_2_slices_are_in_numeric_order(tmp_path: Path) -> None:
    samples = load_dataset("sars_cov_2", root=sars_cov_2.make(tmp_path, layout="study")).samples
    first = samples[samples["volume"] == "0"]
    assert [path.rsplit("/")[-1] for path in first["path"]] == ["0.png", "2.png", "10.png"]
    assert samples.drop_duplicates("patient").set_index("patient")["covid"].to_dict() == {
        "0": "Positive", "79": "Positive", "80": "Negative", "5": "Positive", "100": "Negative",
        "3": "Positive", "150": "Negative",
    }  # fmt: skip


def test_sars_cov_2_as_first_published_says_that_no_patient_split_is_possible(tmp_path: Path) -> None:
    dataset = load_dataset("sars_cov_2", root=sars_cov_2.make(tmp_path))
    assert any("no split by patient is possible" in note for note in dataset.notes)
    assert dataset.samples["patient"].isna().all()


def test_montgomery_keeps_sex_and_age_but_no_text(tmp_path: Path) -> None:
    dataset = load_dataset("montgomery", root=tuberculosis.make_montgomery(tmp_path))
    samples = dataset.samples
    assert samples["sex"].tolist()[:2] == ["M", "F"]
    assert samples["age"].tolist() == list(range(21, 33))
    assert "secret" not in samples.to_csv()
    assert samples["diagnosis"].tolist()[:3] == ["normal", "normal", "normal"]
    assert samples["diagnosis"][3] == "tuberculosis"
    lungs = dataset.tasks[1]
    assert dict(zip(lungs.columns, lungs.classes[1:], strict=True)) == {"mask": "left lung", "mask_right": "right lung"}
    assert samples["mask"].str.contains("leftMask").all()
    assert samples["mask_right"].str.contains("rightMask").all()


def test_shenzhen_reads_the_study_folder_of_masks(tmp_path: Path) -> None:
    root = tuberculosis.make_shenzhen(tmp_path)
    (root / "mask").rename(root / "masks")
    samples = load_dataset("shenzhen", root=root).samples
    assert samples["mask"].str.startswith("masks/").all()
    assert samples["age"].tolist()[:2] == [31, 32]
    assert set(samples["sex"]) == {"M"}


def test_msd_hidden_files_are_no_volumes_and_the_test_set_is_optional(tmp_path: Path) -> None:
    root = volumes.make_spleen(tmp_path)
    samples = load_dataset("msd_spleen", root=root).samples
    assert samples["volume"].nunique() == 10
    more = load_dataset("msd_spleen", root=root, unlabelled=True).samples
    assert more["volume"].nunique() == 12
    assert more["mask"][more["split"].isna()].isna().all()
    inside = load_dataset("msd_spleen", root=root / "Task09_Spleen").samples
    assert inside["id"].equals(samples["id"])


@pytest.mark.parametrize(("modality", "train", "test"), [("ct", 8, 5), ("mri", 2, 1), ("all", 10, 6)])
def test_amos_ids_over_500_are_mri(tmp_path: Path, modality: str, train: int, test: int) -> None:
    samples = load_dataset("amos", root=volumes.make_amos(tmp_path), modality=modality).samples
    found = samples.drop_duplicates("volume")["split"].value_counts()
    assert (found["train"], found["test"]) == (train, test)


def test_btcv_test_volumes_have_no_masks(tmp_path: Path) -> None:
    samples = load_dataset("btcv", root=volumes.make_btcv(tmp_path)).samples
    labelled = samples["mask"].notna()
    assert labelled.equals(samples["split"] != "test")
    pairs = samples[labelled].drop_duplicates("volume")
    assert all(path.replace("img", "label") == mask for path, mask in zip(pairs["path"], pairs["mask"], strict=True))


def test_medmnist_selects_array_and_row(tmp_path: Path) -> None:
    root = medmnist.make(tmp_path)
    dataset = load_dataset("medmnist", root=root)
    row = dataset.samples.index[dataset.samples["split"] == "val"][2]
    sample = dataset.sample(row)
    assert (sample.selector.array, sample.selector.index, sample.selector.axis) == ("val_images", 2, None)
    with np.load(sample.path) as arrays:
        label = arrays["val_labels"][2, 0]
    assert dataset.samples["label"][row] == ("malignant", "normal or benign")[label]
    assert dataset.name == "breastmnist"


def test_medmnist_volumes_and_other_archives_are_refused(tmp_path: Path) -> None:
    parts = {"images": np.zeros((2, 28, 28, 28), np.uint8), "labels": np.zeros((2, 1), np.uint8)}
    arrays = {f"{split}_{name}": array for split in ("train", "val", "test") for name, array in parts.items()}
    np.savez(tmp_path / "organmnist3d.npz", **arrays)
    with pytest.raises(DatasetError, match="3D are not read"):
        load_dataset("medmnist", root=tmp_path)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DatasetError, match="name one with file"):
        load_dataset("medmnist", root=tmp_path)
    with pytest.raises(DatasetError, match="train_images"):
        load_dataset("medmnist", root=tmp_path, file="other")


def test_nifti_pairs_labels_subjects_and_the_table(tmp_path: Path) -> None:
    dataset = load_dataset("nifti", root=volumes.make_nifti(tmp_path), table="labels.csv", classes=("none", "lesion"))
    samples = dataset.samples
    assert samples["mask"].notna().all()
    assert samples["patient"].nunique() == 5
    assert [task.name for task in dataset.tasks] == ["label", "segmentation"]
    assert dataset.tasks[0].level == "volume"
    assert dataset.tasks[1].mask_values == (0, 1)
    assert samples.groupby("volume")["label"].nunique().max() == 1


def test_nifti_labels_in_a_folder_of_their_own(tmp_path: Path) -> None:
    from tests.datasets.miniatures.files import write_volume

    for number in range(3):
        write_volume(tmp_path / "images" / f"case{number}_0000.nii.gz")
        write_volume(tmp_path / "labels" / f"case{number}.nii.gz", values=1)
    write_volume(tmp_path / "labels" / "case9.nii.gz", values=1)
    dataset = load_dataset("nifti", root=tmp_path)
    assert dataset.samples["mask"].notna().all()
    assert dataset.surplus == ("labels/case9.nii.gz",)
    assert any("a patient of its own" in note for note in dataset.notes)


def test_nifti_table_with_unknown_volumes_is_explained(tmp_path: Path) -> None:
    root = volumes.make_nifti(tmp_path)
    write_lines(root / "wrong.csv", ["volume,label", "sub-77,sick"])
    with pytest.raises(DatasetError, match="sub-77"):
        load_dataset("nifti", root=root, table="wrong.csv")

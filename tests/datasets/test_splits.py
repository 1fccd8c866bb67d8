"""The study's rule, split files, and patients on two sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.datasets import load_dataset
from featcache.datasets.splits import evenly_spaced, straddling_patients, study_split
from featcache.errors import DatasetError
from tests.datasets.miniatures import nih, tuberculosis
from tests.datasets.miniatures.files import write_lines, write_png


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_evenly_spaced_gives_k_different_places_below_n(sizes: tuple[int, int]) -> None:
    n, k = sizes
    places = evenly_spaced(n, k)
    assert len(places) == k
    assert len(set(places.tolist())) == k
    assert 0 <= places.min() <= places.max() < n


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_evenly_spaced_is_the_expression_of_the_study(sizes: tuple[int, int]) -> None:
    n, k = sizes
    literal = [round(number) for number in np.arange(0, n, n / k).tolist()]
    assert evenly_spaced(n, k).tolist() == [place for place in literal if place < n][:k]


def test_the_expression_alone_gives_one_too_many_somewhere() -> None:
    """Why the rule is clipped."""
    assert any(len(np.arange(0, n, n / k)) > k for n in range(1, 300) for k in range(1, n))


@pytest.mark.parametrize(
    ("n", "test", "val", "published"),
    [
        (41, 15, 10, {"train": 16, "val": 10, "test": 15}),
        (260, 80, 60, {"train": 120, "val": 60, "test": 80}),
        (138, 46, 23, {"train": 69, "val": 23, "test": 46}),
        (210, 70, 50, {"train": 90, "val": 50, "test": 70}),
        (233, 70, 50, {"train": 113, "val": 50, "test": 70}),
        (30, 0, 15, {"train": 15, "val": 15}),
    ],
)
def test_the_rule_gives_the_published_numbers(n: int, test: int, val: int, published: dict[str, int]) -> None:
    names = [f"v{number:03}" for number in range(n)]
    split, notes = study_split(names, test=test, val=val, of=n)
    assert pd.Series(split).value_counts().to_dict() == published
    assert notes == ()
    assert study_split(names, test=test, val=val, of=n)[0] == split


def test_test_is_taken_first_and_val_from_what_is_left() -> None:
    split, _ = study_split(list("abcdefghij"), test=5, val=2, of=10)
    assert [name for name in split if split[name] == "test"] == list("acegi")
    assert [name for name in split if split[name] == "val"] == ["b", "f"]  # places 0 and 2 (2.5) of b d f h j


def test_an_incomplete_dataset_keeps_the_shares_and_says_so() -> None:
    split, notes = study_split([str(number) for number in range(10)], test=15, val=10, of=41)
    assert pd.Series(split).value_counts().to_dict() == {"train": 4, "test": 4, "val": 2}
    assert "10 of the published 41" in notes[0]
    assert "not the study's split" in notes[0]


def test_shenzhen_of_the_published_size_has_the_published_split(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(1, 663):
        name = f"CHNCXR_{number:04}_{int(number > 326)}"
        for path in ("CXR_png/{}.png", "mask/{}_mask.png"):
            if "mask" not in path or number <= 566:
                (root / path.format(name)).parent.mkdir(parents=True, exist_ok=True)
                (root / path.format(name)).touch()
    samples = load_dataset("shenzhen", root=root).samples
    assert samples["split"].value_counts().to_dict() == {"train": 361, "val": 91, "test": 114}
    every = load_dataset("shenzhen", root=root, images="all").samples
    assert len(every) == 662
    assert every.set_index("id")["split"].loc[samples["id"]].tolist() == samples["split"].tolist()


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    return nih.make(tmp_path / "data")


def test_a_split_file_by_patient_replaces_the_split(xrays: Path, tmp_path: Path) -> None:
    lines = ["patient,split", *(f"{number},{'Training' if number < 9 else 'TEST'}" for number in range(1, 12))]
    write_lines(tmp_path / "split.csv", lines, bom=True, newline="\r\n")
    dataset = load_dataset("nih", root=xrays, split_file=tmp_path / "split.csv", **nih.OPTIONS)
    assert dataset.split_origin == "file"
    assert dataset.samples["split"].value_counts(dropna=False).to_dict() == {"train": 16, "test": 6, np.nan: 2}
    assert "2 samples are not named in split.csv" in dataset.notes[-1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id,split", "nobody.png,train"], "'nobody.png'"),
        (["id,split", "00000001_000.png,trian"], "trian"),
        (["id,split", "00000001_000.png,train", "00000001_000.png,test"], "in two splits"),
        (["name,split", "x,train"], "exactly one of id, patient, volume"),
        (["id,patient,split", "00000001_000.png,1,train"], "exactly one of"),
        (["id,fold", "00000001_000.png,train"], "column split"),
        (["id,split"], "no rows"),
        (["id,split", "00000001_000.png,train", "00000001_001.png,test"], "1 patients .* more than one split: 1"),
    ],
)
def test_a_bad_split_file_is_explained(xrays: Path, tmp_path: Path, lines: list[str], message: str) -> None:
    write_lines(tmp_path / "split.csv", lines)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset("nih", root=xrays, split_file=tmp_path / "split.csv", **nih.OPTIONS)
    assert caught.value.remedy


def test_a_patient_in_two_splits_of_a_table_is_named_unless_allowed(tmp_path: Path) -> None:
    lines = ["path,label,split,patient"]
    for number in range(6):
        write_png(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]},{('train', 'test')[number // 3]},p{number % 3}")
    write_lines(tmp_path / "labels.csv", lines)
    with pytest.raises(DatasetError, match="3 patients are in more than one split: p0, p1, p2"):
        load_dataset("table", root=tmp_path)
    allowed = load_dataset("table", root=tmp_path, allow_patient_overlap=True)
    assert "too good" in allowed.notes[-1]
    assert straddling_patients(allowed.samples) == ["p0", "p1", "p2"]


def test_an_official_split_that_straddles_is_said_and_can_be_mended(xrays: Path) -> None:
    dataset = load_dataset("nih", root=xrays, val_images=5)
    assert dataset.split_origin == "official"
    assert any("publisher's own split 1 patients" in note for note in dataset.notes)
    whole = load_dataset("nih", root=xrays, val_images=5, whole_patients=True)
    assert straddling_patients(whole.samples) == []
    assert whole.samples["split"].value_counts().to_dict() == {"train": 14, "val": 4, "test": 6}


def test_a_split_file_by_volume_keeps_slices_together(tmp_path: Path) -> None:
    from tests.datasets.miniatures import volumes

    root = volumes.make_spleen(tmp_path / "data")
    names = [f"spleen_{number:03}" for number in range(1, 11)]
    write_lines(
        tmp_path / "s.csv",
        ["volume,split", *(f"{name},{'train' if name < 'spleen_006' else 'test'}" for name in names)],
    )
    samples = load_dataset("msd_spleen", root=root, split_file=tmp_path / "s.csv").samples
    assert samples.groupby("volume")["split"].nunique().max() == 1
    assert set(samples["split"]) == {"train", "test"}


def test_montgomery_splits_by_sorted_name(tmp_path: Path) -> None:
    samples = load_dataset("montgomery", root=tuberculosis.make_montgomery(tmp_path / "m", images=138)).samples
    assert samples["split"].value_counts().to_dict() == {"train": 69, "val": 23, "test": 46}
    assert samples["split"].iloc[::3].eq("test").all()

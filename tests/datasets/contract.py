"""``DatasetContract``: what every dataset must be, whoever publishes it. Subclass it with a miniature."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

import featcache
from featcache.datasets import DATASETS, SAMPLE_COLUMNS, Dataset, load_dataset
from featcache.errors import DatasetError
from featcache.extraction import check_source
from featcache.imaging import decoder_of, read, select
from featcache.records import Selector


class DatasetContract:
    """The tests; a subclass names the dataset, its options, and makes the miniature."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    counts: ClassVar[tuple[int, int, int]]
    """Rows of train, val and test in the miniature."""

    def make(self, root: Path) -> Path:
        """Write the miniature and return the root to load."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def root(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return cls().make(tmp_path_factory.mktemp("miniature") / "data")

    @pytest.fixture
    def dataset(self, root: Path) -> Dataset:
        return load_dataset(self.name, root=root, **self.options)

    def test_the_table_begins_with_the_columns_that_all_tables_have(self, dataset: Dataset) -> None:
        samples = dataset.samples
        assert tuple(samples.columns[: len(SAMPLE_COLUMNS)]) == SAMPLE_COLUMNS
        assert samples["index"].dtype == "Int64"
        assert samples.index.equals(pd.RangeIndex(len(samples)))
        for column in ("id", "path", "selector"):
            assert samples[column].notna().all()
            assert isinstance(samples[column].dtype, pd.StringDtype)

    def test_ids_are_unique_and_printable(self, dataset: Dataset) -> None:
        ids = dataset.samples["id"]
        assert ids.is_unique
        assert ids.str.len().between(1, 120).all()
        assert all(text.isprintable() for text in ids)

    def test_splits_have_the_expected_rows(self, dataset: Dataset) -> None:
        found = dataset.samples["split"].value_counts()
        assert tuple(found.reindex(["train", "val", "test"]).tolist()) == self.counts

    def test_paths_are_relative_and_exist(self, dataset: Dataset) -> None:
        mask_columns = [column for task in dataset.tasks if task.type == "segmentation" for column in task.columns]
        for column in ("path", *mask_columns):
            for text in dataset.samples[column].dropna().unique():
                assert not Path(text).is_absolute()
                assert "\\" not in text
                assert ".." not in text.split("/")
                assert (dataset.root / text).exists(), text

    def test_no_cell_holds_a_machine_path(self, dataset: Dataset) -> None:
        text = dataset.samples.to_csv() + " ".join(dataset.notes) + repr(dataset.tasks)
        assert str(dataset.root) not in text

    def test_selectors_are_canonical(self, dataset: Dataset) -> None:
        for column in {"selector", "mask_selector"} & set(dataset.samples.columns):
            for text in dataset.samples[column].dropna().unique():
                assert Selector.from_text(text).to_text() == text
        for text, index in zip(dataset.samples["selector"], dataset.samples["index"], strict=True):
            selector = Selector.from_text(text)
            if selector.axis is not None:
                assert selector.index == index

    def test_a_row_of_each_split_decodes(self, dataset: Dataset) -> None:
        """Where the decoder is there: the first row of each split, and its masks in the image's size."""
        for row in dataset.samples.groupby("split").head(1).index:
            sample = dataset.sample(row)
            if decoder_of(sample.path) is None:
                continue
            plane = select(read(sample.path, sample.selector), sample.selector)
            assert plane.ndim in (2, 3)
            assert min(plane.shape[:2]) > 1
            for task in dataset.tasks:
                for column in task.columns if task.type == "segmentation" else ():
                    path = dataset.samples[column][row]
                    if isinstance(path, str) and decoder_of(path) is not None:
                        part = Selector.from_text(dataset.samples["mask_selector"][row])
                        mask = select(read(dataset.root / path, part), part)
                        assert mask.shape[:2] == plane.shape[:2]
                        if task.mask_values is not None:
                            assert set(np.unique(mask)) <= set(task.mask_values)

    def test_every_row_is_embedded_and_the_classes_can_be_probed(self, dataset: Dataset) -> None:
        """The whole way on the miniature: extract, a second time for nothing, and kNN where there are classes."""
        report = featcache.extract("pixels", dataset, registry_name=self.name, image_size=32)
        assert (report.failed, report.rows) == (0, len(dataset.samples)), report.failures[:3]
        assert featcache.extract("pixels", dataset, registry_name=self.name, image_size=32).computed == 0
        assert check_source(report.store, dataset.root) == []
        for task in dataset.tasks:
            labels = dataset.samples[list(task.columns)].notna().any(axis=1)
            learnt = set(dataset.samples["split"][labels])
            if task.type != "segmentation" and {"train", "test"} <= learnt:
                result = featcache.probe(
                    "knn", report.store, task=task.name, k=1, n_bootstrap=10, allow_patient_overlap=True
                )
                assert result.runs[0].n == (labels & (dataset.samples["split"] == "test")).sum()

    def test_no_patient_is_in_two_splits(self, dataset: Dataset) -> None:
        known = dataset.samples.dropna(subset=["patient", "split"])
        assert (known.groupby("patient")["split"].nunique() <= 1).all()

    def test_slices_of_a_volume_follow_each_other(self, dataset: Dataset) -> None:
        for _, rows in dataset.samples.dropna(subset=["volume"]).groupby("volume"):
            assert rows["index"].is_monotonic_increasing
            assert rows["split"].nunique(dropna=False) == 1
            assert rows.index.max() - rows.index.min() == len(rows) - 1

    def test_labels_are_of_the_task_classes(self, dataset: Dataset) -> None:
        assert len({task.name for task in dataset.tasks}) == len(dataset.tasks)
        spec = DATASETS[self.name]
        for task in dataset.tasks:
            assert task.type in spec.task_types
            labels = dataset.samples[list(task.columns)]
            if task.type == "multilabel":
                assert task.classes == task.columns
                assert set(pd.unique(labels.to_numpy(dtype=object).ravel())) - {pd.NA} <= {0, 1}
            elif task.type == "segmentation":
                assert task.classes[0] == "background"
                assert "mask_selector" in dataset.samples
                known = len(task.columns) + 1 if task.mask_values is None else len(task.mask_values)
                assert len(task.classes) == known
            else:
                assert set(labels[task.columns[0]].dropna()) <= set(task.classes)
                assert (len(task.classes) == 2) == (task.type == "binary")

    def test_loading_again_gives_the_same(self, dataset: Dataset, root: Path) -> None:
        again = load_dataset(self.name, root=root, **self.options)
        pd.testing.assert_frame_equal(dataset.samples, again.samples)
        assert (dataset.tasks, dataset.notes, dataset.split_origin) == (again.tasks, again.notes, again.split_origin)

    def test_a_split_file_replaces_the_split_and_what_was_said_of_it(self, dataset: Dataset, tmp_path: Path) -> None:
        ids = dataset.samples["id"]
        pd.DataFrame({"id": ids, "split": "test"}).to_csv(tmp_path / "split.csv", index=False)
        given = load_dataset(self.name, root=dataset.root, split_file=tmp_path / "split.csv", **self.options)
        assert set(given.samples["split"]) == {"test"}
        assert given.split_origin == "file"
        assert set(dataset.split_notes) <= set(dataset.notes)
        assert [note for note in dataset.notes if note not in dataset.split_notes] == list(given.notes)
        stale = ("60/20/20", "split is given", "give no split", "gives no split", "the study's rule")
        assert not [note for note in given.notes for words in stale if words in note]

    def test_another_place_gives_the_same_table(self, dataset: Dataset, root: Path, tmp_path: Path) -> None:
        """Nothing depends on the order in which a file system lists."""
        moved = tmp_path / "another place"
        moved.mkdir()
        for entry in sorted(root.iterdir(), reverse=True):
            (shutil.copytree if entry.is_dir() else shutil.copy)(entry, moved / entry.name)
        pd.testing.assert_frame_equal(dataset.samples, load_dataset(self.name, root=moved, **self.options).samples)

    def test_the_registry_row_says_whose_it_is(self) -> None:
        spec = DATASETS[self.name]
        assert spec.licence
        assert spec.layout
        if spec.licence != "yours":
            assert spec.citation
            assert spec.source
        for counts in spec.expected.values():
            assert set(counts) <= {"train", "val", "test", "all"}

    def test_an_empty_root_shows_the_layout(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(DatasetError) as caught:
            load_dataset(self.name, root=tmp_path / "empty", **self.options)
        assert "xpected" in (caught.value.remedy or "")
        if DATASETS[self.name].source:
            assert DATASETS[self.name].layout in str(caught.value)

    def test_a_missing_root_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="nowhere"):
            load_dataset(self.name, root=tmp_path / "nowhere", **self.options)

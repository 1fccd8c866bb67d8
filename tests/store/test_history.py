"""Random histories of a dataset against a dictionary: what a store must contain, whatever happened to it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from PIL import Image

import featcache
import featcache.imaging
from featcache.extraction import update_labels
from featcache.records import Progress
from featcache.store import FeatureStore, collect_garbage, verify_store

SIZE = 16


def picture(content: int) -> np.ndarray:
    """(16, 16) uint8 that differs for each content; the encoder `pixels` then gives known features."""
    return np.random.default_rng(content).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)


def features(content: int) -> np.ndarray:
    """What ``pixels`` must give at 16 px and preprocessing without any resizing: (x / 255 - 0.5) / 0.5."""
    return ((picture(content).astype(np.float32).reshape(-1) / 255 - 0.5) / 0.5).astype(np.float16)


class History(RuleBasedStateMachine):
    """Files by name on one side, a store on the other."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        os.environ["FEATCACHE_STATE"] = str(self.folder / "state")
        self.root = self.folder / "root"
        self.files: dict[str, int] = {}
        self.known: set[int] = set()
        self.with_patches: set[int] = set()
        self.has_patches = False
        self.form = "zarr"
        self.extracted: dict[str, int] = {}
        self.store: Path | None = None
        self.next_content = 0
        for label in ("a", "b"):
            (self.root / "train" / label).mkdir(parents=True)
            self.write(f"train/{label}/first.png", self.fresh())

    def fresh(self) -> int:
        self.next_content += 1
        return self.next_content

    def write(self, name: str, content: int) -> None:
        Image.fromarray(picture(content)).save(self.root / name)
        self.files[name] = content

    @rule(count=st.integers(1, 70), label=st.sampled_from("ab"))
    def add(self, count: int, label: str) -> None:
        for _ in range(count):
            content = self.fresh()
            self.write(f"train/{label}/{content:05}.png", content)

    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        self.write(data.draw(st.sampled_from(sorted(self.files))), self.fresh())

    @rule(data=st.data(), share=st.floats(0.05, 0.9))
    def remove(self, data: st.DataObject, share: float) -> None:
        names = sorted(name for name in self.files if not name.endswith("first.png"))
        for name in names[: int(share * len(names))]:
            (self.root / name).unlink()
            del self.files[name]

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        if name.endswith("first.png"):
            return
        new = f"train/{data.draw(st.sampled_from('ab'))}/moved{self.fresh():05}.png"  # also another label
        (self.root / name).rename(self.root / new)
        self.files[new] = self.files.pop(name)

    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        copy = f"train/a/copy{self.fresh():05}.png"
        shutil.copy(self.root / name, self.root / copy)
        self.files[copy] = self.files[name]

    @rule(data=st.data())
    def relabel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        if name.endswith("first.png") or self.store is None:
            return
        new = f"train/{'b' if '/a/' in name else 'a'}/relabelled{self.fresh():05}.png"
        (self.root / name).rename(self.root / new)
        self.files[new] = self.files.pop(name)
        update_labels("folder", root=self.root, home=self.folder / "home", dataset_name="d")
        self.extracted = {path: content for path, content in self.files.items() if content in self.known}

    def extract(self, **options: object) -> featcache.ExtractionReport:
        return featcache.extract(
            "pixels", "folder", root=self.root, home=self.folder / "home", dataset_name="d", image_size=SIZE,
            preprocess=featcache.imaging.Preprocess("squash", SIZE, SIZE, (0.5,) * 3, (0.5,) * 3),  # type: ignore[arg-type]
            batch_size=16, workers=1, format=self.form, **options,  # type: ignore[arg-type]
        )  # fmt: skip

    @rule(patches=st.booleans(), form=st.sampled_from(["zarr", "zarr", "hdf5"]))
    def extract_all(self, patches: bool, form: str) -> None:
        self.form = form
        contents = set(self.files.values())
        needs_patches = patches or (form == "hdf5" and self.has_patches)
        new = contents - self.known | (contents - self.with_patches if needs_patches else set())
        report = self.extract(patches=patches)
        assert report.computed == len(new), "exactly the contents of which the store lacks what was asked for"
        assert report.rows == len(self.files)
        self.remember(report, needs_patches)

    def remember(self, report: featcache.ExtractionReport, patches: bool) -> None:
        self.known |= set(self.files.values())
        if patches:
            self.has_patches = True
            self.with_patches |= set(self.files.values())
        if self.form == "hdf5" and self.has_patches:  # one file holds patches of all rows or of none
            self.known &= self.with_patches
        self.store, self.extracted = report.store, dict(self.files)

    @rule(after=st.integers(0, 60))
    def extract_and_be_interrupted(self, after: int) -> None:
        def interrupt(progress: Progress) -> None:
            if progress.done > after:
                raise KeyboardInterrupt

        try:
            report = self.extract(progress=interrupt)
        except KeyboardInterrupt:
            report = self.extract()
        self.remember(report, self.form == "hdf5" and self.has_patches)

    @precondition(lambda self: self.store is not None)
    @rule()
    def gc(self) -> None:
        assert self.store is not None
        collect_garbage(self.store)
        opened = FeatureStore(self.store)
        # gc may keep dead rows of well-filled segments; what it dropped is computed again when it comes back.
        digests = {bytes(digest) for digest in opened._backend.committed()[0]}
        self.known = {content for content in self.known if self.digest(content) in digests}
        wanted = {content: np.frombuffer(self.digest(content), np.uint8)[None] for content in self.with_patches}
        self.with_patches = {name for name, one in wanted.items() if opened.array_of("patches", one).rows[0] >= 0}

    def digest(self, content: int) -> bytes:
        from featcache.store import file_digest, row_digest

        path = self.folder / "probe.png"
        Image.fromarray(picture(content)).save(path)
        return row_digest(file_digest(path), "")

    @invariant()
    def the_store_is_what_the_dictionary_says(self) -> None:
        if getattr(self, "store", None) is None:
            return
        store = FeatureStore(self.store)  # type: ignore[arg-type]
        assert dict(zip(store.samples["id"], [0] * len(store), strict=True)).keys() == self.extracted.keys()
        for name, row in zip(store.samples["id"], store["cls"][:], strict=True):
            np.testing.assert_array_equal(row, features(self.extracted[name]))
        there = np.array([self.extracted[name] in self.with_patches for name in store.samples["id"]], bool)
        if there.any():
            np.testing.assert_array_equal(store["patches"][there].reshape(there.sum(), -1), store["cls"][there])
        assert all(problem.incomplete for problem in verify_store(self.store))  # type: ignore[arg-type]

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)

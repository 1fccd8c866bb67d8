"""Records that are written to disk come back."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from featcache.records import Selector, Task


@pytest.mark.parametrize(
    "selector",
    [
        Selector(),
        Selector("axial", 0),
        Selector("coronal", 7, (0, 0, 4, 4), mirror=True),
        Selector(crop=(1, 2, 3, 4)),
        Selector(index=5, array="train_images"),
        Selector(frame=0),
        Selector("axial", 3, series="1.2.840.1-2"),
    ],
)
def test_a_selector_survives_its_text(selector: Selector) -> None:
    assert Selector.from_text(selector.to_text()) == selector


def test_selector_texts_are_canonical_and_distinct() -> None:
    assert Selector().to_text() == ""
    assert json.loads(Selector("axial", 0).to_text()) == {"axis": "axial", "index": 0}
    assert len({Selector("axial", n, mirror=m).to_text() for n in range(3) for m in (True, False)}) == 6


def test_a_task_that_was_json_is_the_same_task() -> None:
    task = Task("organs", "segmentation", ("mask",), ("background", "liver"), mask_values=(0, 6))
    fields = json.loads(json.dumps(asdict(task)))
    again = Task(**{**fields, "columns": tuple(fields["columns"]), "classes": tuple(fields["classes"])})
    assert again == task
    assert hash(again) == hash(task)

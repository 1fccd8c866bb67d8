"""Records that are written to disk come back."""

from __future__ import annotations

import json

import pytest

from featcache.records import Selector


@pytest.mark.parametrize(
    "selector",
    [
        Selector(),
        Selector("axial", 0),
        Selector("coronal", 7, (0, 0, 4, 4), mirror=True),
        Selector(crop=(1, 2, 3, 4)),
    ],
)
def test_a_selector_survives_its_text(selector: Selector) -> None:
    assert Selector.from_text(selector.to_text()) == selector


def test_selector_texts_are_canonical_and_distinct() -> None:
    assert Selector().to_text() == ""
    assert json.loads(Selector("axial", 0).to_text()) == {"axis": "axial", "index": 0}
    assert len({Selector("axial", n, mirror=m).to_text() for n in range(3) for m in (True, False)}) == 6

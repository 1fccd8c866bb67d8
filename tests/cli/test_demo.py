"""The demo: real images, real weights, and numbers in the range that they must be in."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
from PIL import Image

import featcache
from tests.cli.test_commands import run, schema


def test_the_demo_shows_what_pretrained_features_are_worth(home: Path) -> None:
    done = json.loads(run("demo", "--json").stdout)
    accuracy = {}
    for result in done["results"]:
        jsonschema.validate(result, schema("probe"))
        found = result["runs"][0]["metrics"]["accuracy"]
        low, high = found["ci"]
        assert low < found["value"] < high
        accuracy[result["model"], result["probe"]] = found["value"]
        assert any("not a clinical result" in note for note in result["notes"])
    assert 0.78 <= accuracy["efficientnet_lite0", "knn"] <= 0.88
    assert 0.80 <= accuracy["efficientnet_lite0", "logistic"] <= 0.91
    assert 0.50 <= accuracy["efficientnet_lite0_random", "knn"] <= 0.72
    for probe in ("knn", "logistic"):
        for control in ("efficientnet_lite0_random", "pixels"):
            assert accuracy["efficientnet_lite0", probe] > accuracy[control, probe] + 0.03 > 0.125
    with Image.open(done["picture"]) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 50
    again = featcache.extract("efficientnet_lite0", "brain_regions", image_size=112)
    assert (again.computed, again.rows) == (0, 800)
    shown = run("demo").stdout
    assert "0 computed" in shown
    assert shown.split("next:")[1].count("featcache ") == 3
    assert "not a clinical result" in shown
    assert len(json.loads(run("probe", "knn", "--k", "5,20", "--json").stdout)["runs"]) == 2

"""``featcache masks`` and ``featcache probe segment`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
from PIL import Image

from tests.cli.test_commands import run, schema
from tests.evaluation.segmentation.test_segmenting import write_scans


def test_the_whole_way_from_label_files_to_predictions_that_lie_on_their_images(tmp_path: Path) -> None:
    root = write_scans(tmp_path / "scans")
    data = ["--dataset", "nifti", "--root", root, "--split-file", root / "split.csv"]
    run("extract", "--model", "pixels", "--preprocess", "radiology-linear", *data)
    failed = run("probe", "segment", "--solver", "ridge", check=False)
    assert failed.returncode == 1
    assert "featcache masks --dataset" in failed.stderr
    written = json.loads(run("masks", *data, "--json").stdout)
    assert [(report["written"], report["kept"]) for report in written["reports"]] == [(64, 0)]
    failed = run("probe", "segment", "--solver", "ridge", check=False)
    assert "--patches" in failed.stderr
    run("extract", "--model", "pixels", "--preprocess", "radiology-linear", "--patches", *data)
    assert "0 masks written, 64 kept" in run("masks", *data).stdout

    question = ["probe", "segment", "--solver", "ridge", "--n-bootstrap", 20]
    out = tmp_path / "out"
    result = json.loads(run(*question, "--save-predictions", out, "--root", root, "--json").stdout)
    assert result.pop("predictions") == str(out)
    jsonschema.validate(result, schema("probe"))
    (found,) = result["runs"]
    assert found["metrics"]["dice"]["value"] > 0.6
    assert [part["value"] for part in found["subgroups"]] == ["v6", "v7"]
    for name, part in zip(("v6", "v7"), found["subgroups"], strict=True):
        drawn, truth = nibabel.load(out / f"{name}.nii.gz"), nibabel.load(root / f"{name}_seg.nii.gz")
        np.testing.assert_array_equal(drawn.affine, truth.affine)
        one, two = np.asarray(drawn.dataobj) > 0, np.asarray(truth.dataobj) > 0
        assert 2 * (one & two).sum() / (one.sum() + two.sum()) == part["metrics"]["dice"]["value"]
    assert np.asarray(Image.open(out / "cases.png").convert("RGB")).std() > 10

    shown = run(*question, "--per-class", "--per-volume").stdout
    assert result["id"] in shown  # answered from the ledger
    assert "over patients" in shown
    assert "v7" in shown
    few = json.loads(run(*question, "--shots", "1,2", "--by-volume", "--protocol", "study", "--json").stdout)
    jsonschema.validate(few, schema("probe"))
    assert [one["shots"] for one in few["runs"]] == [1, 2]
    assert "pooled_dice" in few["runs"][0]["metrics"]
    assert result["id"] in run("results").stdout
    refused = run("compare", result["id"], few["id"], check=False)
    assert refused.returncode == 1
    assert "pools its pixels" in refused.stderr
    knn = json.loads(run("probe", "segment", "--head", "knn", "--n-bootstrap", 20, "--json").stdout)
    compared = run("compare", result["id"], knn["id"]).stdout
    assert "2 volumes" in compared
    assert "difference in dice" in compared or "higher dice" in compared


def test_a_head_that_is_not_known_is_named_with_the_nearest(tmp_path: Path) -> None:
    run("extract", "--model", "pixels", "--dataset", "nifti", "--root", write_scans(tmp_path / "scans"))
    failed = run("probe", "segment", "--head", "linera", check=False)
    assert failed.returncode == 1
    assert "linear" in failed.stderr
    assert "Traceback" not in failed.stderr

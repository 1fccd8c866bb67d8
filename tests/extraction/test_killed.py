"""A whole extraction, from planning to the packed file, killed without warning at seeded moments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.store import verify_store
from tests.conftest import WriteImages

# SIGKILL before the n-th change of the file system, wherever in the run that is.
_CHILD = """
import os, sys
from pathlib import Path
import featcache
from featcache.store import durable

left = int(sys.argv[1])
def counted(original):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return original(*arguments, **options)
    return call
for name in ("replace", "rename", "unlink", "mkdir"):
    setattr(Path, name, counted(getattr(Path, name)))
os.fsync = counted(os.fsync)
featcache.extract("pixels", "folder", root=sys.argv[2], home=sys.argv[3], dataset_name="x", patches=True,
                  batch_size=16, format=sys.argv[4])
"""


@pytest.mark.parametrize(("form", "after"), [("zarr", 1), ("zarr", 30), ("zarr", 95), ("hdf5", 60), ("hdf5", 170)])
def test_an_extraction_killed_at_any_instant_resumes_to_the_same_rows(
    image_folder: WriteImages, tmp_path: Path, form: str, after: int
) -> None:
    root = image_folder(25)
    options = {"root": root, "dataset_name": "x", "patches": True, "batch_size": 16, "format": form}
    command = [sys.executable, "-c", _CHILD, str(after), str(root), str(tmp_path / "killed"), form]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == -9, "it is to be killed: choose an earlier moment"
    whole = featcache.open(featcache.extract("pixels", "folder", home=tmp_path / "whole", **options).store)  # type: ignore[arg-type]
    resumed = featcache.extract("pixels", "folder", home=tmp_path / "killed", **options)  # type: ignore[arg-type]
    store = featcache.open(resumed.store)
    assert store.samples.equals(whole.samples)
    for name in whole.names:
        np.testing.assert_array_equal(store[name][:], whole[name][:])
    assert verify_store(resumed.store) == []

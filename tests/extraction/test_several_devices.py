"""One process a device: the same store as one process makes, and none takes the others along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import featcache
from featcache.errors import ConfigurationError, FeatcacheError
from featcache.extraction.several_devices import _summed, listed_devices
from featcache.records import Progress
from featcache.store import FeatureStore, verify_store
from tests.conftest import WriteImages
from tests.extraction.test_sharding import rows_by_id

ROOT = Path(__file__).parents[2]

# Put on PYTHONPATH: the process of that name kills itself at the n-th fsync, wherever in its run that is.
_KILLER = """
import multiprocessing, os
left = int(os.environ["KILL_AFTER"])
original = os.fsync
def fsync(descriptor):
    global left
    if os.environ["KILL_NAME"] in multiprocessing.current_process().name:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
    original(descriptor)
os.fsync = fsync
"""


def test_a_number_is_a_cuda_device() -> None:
    assert listed_devices("0,1") == listed_devices(["cuda:0", "cuda:1"]) == listed_devices((0, "1"))  # type: ignore[arg-type]
    assert listed_devices("cpu, cpu") == ["cpu", "cpu"]
    with pytest.raises(ConfigurationError, match="--devices"):
        listed_devices("0,,1")


def test_two_processes_make_the_store_that_one_makes(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(20)
    (root / "train/dark/broken.png").write_bytes(b"no image")
    options = {"root": root, "dataset_name": "x", "batch_size": 8, "patches": True, "format": "hdf5"}
    alone = featcache.extract("pixels", "folder", home=tmp_path / "alone", **options)  # type: ignore[arg-type]
    seen: list[Progress] = []
    report = featcache.extract("pixels", "folder", devices="cpu,cpu", progress=seen.append, **options)  # type: ignore[arg-type]
    store = FeatureStore(report.store)
    assert rows_by_id(store) == rows_by_id(FeatureStore(alone.store))
    assert (report.computed, report.rows, report.reused, report.failed) == (120, 120, 0, 1)
    assert report.failures == alone.failures == store.failures
    assert report.images_per_second
    assert report.bottleneck in report.busy
    assert verify_store(report.store) == []
    assert report.store.suffix == ".h5", "the parent packs what the processes left"
    assert not any("--shard" in note for note in report.notes)
    assert not list(report.store.parent.glob("*.zarr"))
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (121, 121, 1)
    again = featcache.extract("pixels", "folder", devices=["cpu", "cpu"], **options)  # type: ignore[arg-type]
    assert (again.computed, again.rows) == (0, 120)


def test_a_killed_process_takes_none_of_the_others_along(
    image_folder: WriteImages, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(60)
    options = {"root": root, "dataset_name": "x", "batch_size": 16}
    (tmp_path / "killer").mkdir()
    (tmp_path / "killer" / "sitecustomize.py").write_text(_KILLER)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", f"{tmp_path / 'killer'}{os.pathsep}{ROOT}")
        patched.setenv("KILL_AFTER", "24")
        patched.setenv("KILL_NAME", "process 2/2")
        said = r"process 2/2 on cpu died of SIGKILL; 1 other finished, 180"
        with pytest.raises(FeatcacheError, match=said) as caught:
            featcache.extract("pixels", "folder", devices="cpu,cpu", **options)  # type: ignore[arg-type]
    assert "same command again" in (caught.value.remedy or "")
    (path,) = (home / "x").glob("*.zarr")
    assert 180 <= len(FeatureStore(path)) < 360
    assert [problem for problem in verify_store(path) if not problem.incomplete] == []
    report = featcache.extract("pixels", "folder", **options)  # type: ignore[arg-type]
    assert (report.rows, report.reused + report.computed) == (360, 360)
    assert report.reused >= 180
    assert verify_store(path) == []
    alone = featcache.extract("pixels", "folder", home=tmp_path / "alone", **options)  # type: ignore[arg-type]
    assert rows_by_id(FeatureStore(path)) == rows_by_id(FeatureStore(alone.store))


def test_what_all_processes_refuse_is_said_once(image_folder: WriteImages) -> None:
    with pytest.raises(FeatcacheError, match=r"^device 'cuda:77' cannot be used[^;]*$"):
        featcache.extract("pixels", "folder", root=image_folder(2), devices="77,77", precision="fp32")
    with pytest.raises(ConfigurationError, match="device 'cpu' and devices"):
        featcache.extract("pixels", "folder", root=image_folder(2), devices="cpu,cpu", device="cpu")


_INTERRUPTED = """
import os, signal, sys
import featcache

def stop(progress):
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    try:
        featcache.extract("pixels", "folder", root=sys.argv[1], dataset_name="x", devices="cpu,cpu", batch_size=4,
                          progress=stop)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_an_interrupt_stops_all_and_keeps_what_was_committed(image_folder: WriteImages, tmp_path: Path) -> None:
    root = image_folder(100)
    script = tmp_path / "script.py"
    script.write_text(_INTERRUPTED)
    done = subprocess.run(
        [sys.executable, str(script), str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    folder = Path(os.environ["FEATCACHE_HOME"]) / "x"
    path = next(folder.glob("*.zarr"))
    assert len(FeatureStore(path)) > 0, "the batches that were finished are committed"
    assert not list(folder.glob(".*of*"))
    assert [problem for problem in verify_store(path) if not problem.incomplete] == []
    report = featcache.extract("pixels", "folder", root=root, dataset_name="x")
    assert report.rows == 600
    assert verify_store(path) == []


# As _KILLER, but at the first fsync, and after it has started a process that lives until the pipe is opened.
_SURVIVED = """
import multiprocessing, os
original = os.fsync
def fsync(descriptor):
    if "process 2/2" in multiprocessing.current_process().name:
        if os.fork() == 0:
            open(os.environ["HELD_BY"]).read()
            os._exit(0)
        os.kill(os.getpid(), 9)
    original(descriptor)
os.fsync = fsync
"""


def test_a_death_is_noticed_although_a_process_that_it_started_lives_on(
    image_folder: WriteImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that hangs in a file outlives the process of its device, and has inherited its connection."""
    (tmp_path / "killer").mkdir()
    (tmp_path / "killer" / "sitecustomize.py").write_text(_SURVIVED)
    os.mkfifo(tmp_path / "held")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'killer'}{os.pathsep}{ROOT}")
    monkeypatch.setenv("HELD_BY", str(tmp_path / "held"))
    try:
        with pytest.raises(FeatcacheError, match="process 2/2 on cpu died of SIGKILL"):
            featcache.extract("pixels", "folder", root=image_folder(4), dataset_name="x", devices="cpu,cpu")
    finally:
        (tmp_path / "held").write_text("go")


def test_the_rate_of_a_process_that_has_finished_promises_nothing() -> None:
    ended, working = Progress(50, 50, 1, 30.0, "read"), Progress(20, 50, 0, 5.0, "encode")
    both = _summed([ended, working], 100)
    assert (both.done, both.total, both.failed, both.images_per_second) == (70, 100, 1, 5.0)
    assert _summed([ended, ended], 100).images_per_second == 60.0

"""A writer killed at any instant loses no committed row; resumed, the store is what an unharmed one is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featcache.errors import StoreError
from featcache.store import (
    FeatureStore,
    SampleTable,
    collect_garbage,
    open_writer,
    seal,
    store_paths,
    verify_store,
    write_samples,
)
from tests.store.conftest import ARRAYS, MakeStore, digest_of, features_of, make_key

NAMES = [f"row{number}" for number in range(200)]

# Kills itself before the n-th change of the file system: each rename and each removal is one.
_CHILD = """
import os, sys
from pathlib import Path
from featcache.store import durable
from tests.store import test_crashes

left = int(sys.argv[2])
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
getattr(test_crashes, sys.argv[3])(Path(sys.argv[1]))
print("finished")
"""


def append_missing(folder: Path) -> None:
    """What an extraction does: commit the rows that are missing, in order."""
    key = make_key()
    path = folder / key.store_name
    with open_writer(folder, key, arrays=ARRAYS, planned_rows=len(NAMES), provenance={}) as writer:
        wanted = np.frombuffer(b"".join(map(digest_of, NAMES)), np.uint8).reshape(-1, 16)
        missing = [NAMES[row] for row in np.flatnonzero(FeatureStore(path).rows_of(wanted) < 0)]
        for position, number in enumerate(writer.reserve(len(missing))):
            part = missing[position * writer.chunk_rows : (position + 1) * writer.chunk_rows]
            digests = np.frombuffer(b"".join(map(digest_of, part)), np.uint8).reshape(-1, 16)
            writer.commit(number, digests, part, features_of(part))


TOKENS_OF = {name: np.full((2, 2, 3), number, np.float16) for number, name in enumerate(NAMES)}


def append_tokens(folder: Path) -> None:
    """The same for a family of tokens."""
    key = make_key()
    path = folder / key.store_name
    facts = {"planned_rows": len(NAMES), "provenance": {}}
    with (
        open_writer(folder, key, arrays=ARRAYS, **facts),
        open_writer(folder, key, arrays={"tokens": (2, 2, 3)}, family="patches", **facts) as writer,
    ):
        wanted = np.frombuffer(b"".join(map(digest_of, NAMES)), np.uint8).reshape(-1, 16)
        missing = [NAMES[row] for row in np.flatnonzero(FeatureStore(path).array_of("patches", wanted).rows < 0)]
        for position, number in enumerate(writer.reserve(len(missing))):
            part = missing[position * writer.chunk_rows : (position + 1) * writer.chunk_rows]
            digests = np.frombuffer(b"".join(map(digest_of, part)), np.uint8).reshape(-1, 16)
            writer.commit(number, digests, part, {"tokens": np.stack([TOKENS_OF[name] for name in part])})


def tokens_are_true(path: Path, complete: bool) -> None:
    store = FeatureStore(path)
    there = np.flatnonzero(store.array_of("patches", store._view[2]).rows >= 0) if "patches" in store else []
    assert not complete or len(there) == len(NAMES)
    if len(there):
        np.testing.assert_array_equal(store["patches"][there], [TOKENS_OF[NAMES[row]] for row in there])


def pack(folder: Path) -> None:
    """The end of an extraction with --format hdf5."""
    seal(folder / make_key().store_name, ())


def collect(folder: Path) -> None:
    collect_garbage(folder / make_key().store_name)


def run_and_kill(folder: Path, action: str, after: int) -> bool:
    """Whether the child finished before it was to be killed."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), str(after), action],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == 0


def rows_are_true(folder: Path, complete: bool) -> None:
    path = folder / make_key().store_name
    store = FeatureStore(path)
    wanted = np.frombuffer(b"".join(map(digest_of, NAMES)), np.uint8).reshape(-1, 16)
    committed = store.rows_of(wanted) >= 0
    assert not complete or committed.all()
    names = [name for name, there in zip(NAMES, committed, strict=True) if there]
    for array, rows in features_of(names).items():
        np.testing.assert_array_equal(store[array][:][np.flatnonzero(committed[committed])], rows)


def write_table(folder: Path) -> None:
    frame = pd.DataFrame({"id": NAMES, "digest": [digest_of(name).hex() for name in NAMES], "split": "train"})
    write_samples(folder, SampleTable("table", frame, (), "table", ()))


@pytest.fixture
def folder(home: Path) -> Path:
    write_table(home / "data")
    return home / "data"


@pytest.mark.parametrize("after", [0, 3, 8, 14, 19, 23, 27, 31, 38, 47, 59, 66, 74, 83, 96, 110])
def test_a_writer_killed_at_any_instant_resumes_to_the_same_store(folder: Path, after: int) -> None:
    finished = run_and_kill(folder, "append_missing", after)
    path = folder / make_key().store_name
    if (path / "zarr.json").exists():
        rows_are_true(folder, complete=finished)
    append_missing(folder)
    rows_are_true(folder, complete=True)
    assert verify_store(path) == []
    collect_garbage(path)
    rows_are_true(folder, complete=True)
    assert verify_store(path) == []
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("after", [2, 6, 10, 14, 18, 22, 26, 30, 34, 40])
def test_gc_killed_at_any_instant_loses_no_row(folder: Path, after: int) -> None:
    key = make_key()
    for part in (NAMES[:70], NAMES[70:75], NAMES[75:90], NAMES[90:]):  # short segments: something to pack
        with open_writer(folder, key, arrays=ARRAYS, planned_rows=200, provenance={}) as writer:
            for position, number in enumerate(writer.reserve(len(part))):
                rows = part[position * writer.chunk_rows : (position + 1) * writer.chunk_rows]
                digests = np.frombuffer(b"".join(map(digest_of, rows)), np.uint8).reshape(-1, 16)
                writer.commit(number, digests, rows, features_of(rows))
    run_and_kill(folder, "collect", after)
    rows_are_true(folder, complete=True)
    collect(folder)
    rows_are_true(folder, complete=True)
    assert verify_store(folder / key.store_name) == []


@pytest.mark.parametrize("after", [0, 4, 9, 15, 22, 30, 39, 49])
def test_a_writer_of_tokens_killed_at_any_instant_resumes_to_the_same_store(folder: Path, after: int) -> None:
    append_missing(folder)
    finished = run_and_kill(folder, "append_tokens", after)
    path = folder / make_key().store_name
    rows_are_true(folder, complete=True)
    tokens_are_true(path, complete=finished)
    append_tokens(folder)
    tokens_are_true(path, complete=True)
    assert verify_store(path) == []
    collect_garbage(path)
    tokens_are_true(path, complete=True)
    rows_are_true(folder, complete=True)
    assert verify_store(path) == []
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 14])
def test_packing_killed_at_any_instant_keeps_a_store_with_every_row(folder: Path, after: int) -> None:
    append_missing(folder)
    append_tokens(folder)
    group = folder / make_key().store_name
    run_and_kill(folder, "pack", after)
    (found,) = store_paths(folder.parent)
    assert found in (group, group.with_suffix(".h5"))
    tokens_are_true(found, complete=True)
    if found == group:
        pack(folder)
    packed = FeatureStore(group.with_suffix(".h5"))
    tokens_are_true(packed.path, complete=True)
    for array, rows in features_of(NAMES).items():
        np.testing.assert_array_equal(packed[array][:], rows)
    assert verify_store(packed.path) == []


_ON_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from tests.store import test_crashes
from featcache.errors import StoreError

folder = Path(sys.argv[1])
mount = lambda *options: subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], check=True)
folder.mkdir(parents=True)
mount("size=96k")
test_crashes.write_table(folder)
try:
    test_crashes.append_missing(folder)
    test_crashes.append_tokens(folder)
    sys.exit("the disk was never full")
except StoreError as error:
    assert "No space left on device" in str(error) and "the same command goes on from there" in str(error), error
test_crashes.rows_are_true(folder, complete=False)
mount("remount", "size=64m")
test_crashes.append_missing(folder)
test_crashes.append_tokens(folder)
test_crashes.rows_are_true(folder, complete=True)
test_crashes.tokens_are_true(folder / test_crashes.make_key().store_name, complete=True)
assert test_crashes.verify_store(folder / test_crashes.make_key().store_name) == []
"""


def test_a_disk_that_is_really_full_loses_nothing(tmp_path: Path) -> None:
    """On a small tmpfs of its own mount namespace, where the system allows one."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = [*namespace, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mount in a namespace of its own")
    command = [*namespace, sys.executable, "-c", _ON_A_SMALL_DISK, str(tmp_path / "disk" / "data")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr


def test_a_full_disk_is_explained_and_loses_nothing(
    make_store: MakeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC from the system at the third chunk, as a full disk gives it."""
    import errno

    from featcache.store import writer as writing

    real, calls = writing.write_durably, [0]

    def full(path: Path, content: bytes) -> None:
        calls[0] += "/c/" in str(path)
        if calls[0] > 7:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "write_durably", full)
        with pytest.raises(StoreError, match=r"No space left[\s\S]*the same command goes on"):
            append_missing(folder)
    rows_are_true(folder, complete=False)
    append_missing(folder)
    rows_are_true(folder, complete=True)
    assert verify_store(folder / make_key().store_name) == []

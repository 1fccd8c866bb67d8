"""Several real processes append to one store at the same time; one that is killed takes nothing of the others along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from featcache.errors import StoreLockedError
from featcache.records import Failure
from featcache.store import (
    FeatureStore,
    collect_garbage,
    drop_damage,
    open_writer,
    remove_store,
    seal,
    verify_store,
    write_quarantine,
)
from featcache.store.lock import brief_lock, claim_shard, write_lock
from featcache.store.manifest import read_manifest
from featcache.store.segments import segment_number, segment_records
from tests.store.conftest import ARRAYS, digest_of, features_of, make_key
from tests.store.test_crashes import NAMES, rows_are_true, write_table

SHARDS = 3
FACTS = {"arrays": ARRAYS, "planned_rows": len(NAMES), "provenance": {}}

# Waits until all are ready, then appends; kills itself before the n-th change of the file system if n >= 0.
_CHILD = """
import os, sys
from pathlib import Path
from featcache.store import durable
from tests.store import test_shared_writing

left = int(sys.argv[3])
def counted(original):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == -1:
            os.kill(os.getpid(), 9)
        return original(*arguments, **options)
    return call
if left >= 0:
    for name in ("replace", "rename", "unlink", "mkdir"):
        setattr(Path, name, counted(getattr(Path, name)))
    os.fsync = counted(os.fsync)
    os.link = counted(os.link)
print("ready", flush=True)
sys.stdin.readline()
test_shared_writing.append_shard(Path(sys.argv[1]), int(sys.argv[2]))
print("finished", flush=True)
"""


def part_of(shard: int) -> list[str]:
    return NAMES[shard - 1 :: SHARDS]


def append_shard(folder: Path, shard: int) -> None:
    """What a shard of an extraction does: commit those of its rows that are missing, a few at a time."""
    key = make_key()
    with open_writer(folder, key, shard=(shard, SHARDS), **FACTS) as writer:  # type: ignore[arg-type]
        wanted = np.frombuffer(b"".join(map(digest_of, part_of(shard))), np.uint8).reshape(-1, 16)
        absent = np.flatnonzero(FeatureStore(folder / key.store_name).rows_of(wanted) < 0)
        missing = [part_of(shard)[row] for row in absent.tolist()]
        # Two reservations a session: the numbers of the shards interleave.
        for half in (missing[: len(missing) // 2], missing[len(missing) // 2 :]):
            for position, number in enumerate(writer.reserve(len(half))):
                part = half[position * writer.chunk_rows : (position + 1) * writer.chunk_rows]
                digests = np.frombuffer(b"".join(map(digest_of, part)), np.uint8).reshape(-1, 16)
                writer.commit(number, digests, part, features_of(part))


def run_together(folder: Path, killed: int | None = None, after: int = -1) -> list[int]:
    """Exit codes of all shards, started at the same moment."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(folder), str(shard), str(after if shard == killed else -1)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=dict(os.environ),
        )
        for shard in range(1, SHARDS + 1)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    errors = [child.communicate()[1] for child in children]
    codes = [child.returncode for child in children]
    assert all(code in (0, -9) for code in codes), errors
    return codes


def committed_of(folder: Path, shard: int) -> int:
    store = FeatureStore(folder / make_key().store_name)
    wanted = np.frombuffer(b"".join(map(digest_of, part_of(shard))), np.uint8).reshape(-1, 16)
    return int((store.rows_of(wanted) >= 0).sum())


def plain_rows(path: Path) -> dict[bytes, bytes]:
    """Digest to the bytes of its row in all arrays, by zarr alone; only rows that have a digest."""
    group = zarr.open_group(path, mode="r")
    digests = np.asarray(group["digests"][:])
    arrays = [np.asarray(group[name][:]) for name in sorted(ARRAYS)]
    return {
        digests[row].tobytes(): b"".join(array[row].tobytes() for array in arrays)
        for row in np.flatnonzero(digests.any(axis=1)).tolist()
    }


@pytest.fixture
def folder(home: Path) -> Path:
    write_table(home / "data")
    return home / "data"


def test_three_processes_at_once_make_the_store_that_one_makes(folder: Path, tmp_path: Path) -> None:
    assert run_together(folder) == [0, 0, 0]
    path = folder / make_key().store_name
    rows_are_true(folder, complete=True)
    assert verify_store(path) == []
    records = segment_records(path)
    manifest = read_manifest(path)
    assert manifest is not None
    assert {f"segments/{record.name}" for record in records} <= set(manifest.files)
    assert manifest.next_segment == max(map(segment_number, records)) + 1
    alone = tmp_path / "alone"
    write_table(alone)
    for shard in range(1, SHARDS + 1):
        append_shard(alone, shard)
    assert plain_rows(path) == plain_rows(alone / path.name)
    assert not list(folder.glob(".*of*")), "claims are gone"


@pytest.mark.parametrize("after", [5, 63, 95, 118, 150, 172])
def test_a_killed_shard_costs_only_its_own_uncommitted_rows(folder: Path, after: int) -> None:
    codes = run_together(folder, killed=2, after=after)
    assert codes[0] == codes[2] == 0
    path = folder / make_key().store_name
    assert committed_of(folder, 1) == len(part_of(1))
    assert committed_of(folder, 3) == len(part_of(3))
    rows_are_true(folder, complete=codes[1] == 0)
    damage = [problem for problem in verify_store(path) if not problem.incomplete]
    assert damage == []
    held = {segment_number(record) for record in segment_records(path)}
    manifest = read_manifest(path)
    append_shard(folder, 2)  # the same command again
    rows_are_true(folder, complete=True)
    assert verify_store(path) == []
    fresh = {segment_number(record) for record in segment_records(path)} - held
    assert manifest is not None
    assert all(number >= manifest.next_segment for number in fresh), "reserved numbers are never used again"
    digests = np.frombuffer(b"".join(map(digest_of, NAMES)), np.uint8).reshape(-1, 16)
    plain = plain_rows(path)
    arrays = features_of(NAMES)
    for row, digest in enumerate(digests):
        assert plain[digest.tobytes()] == b"".join(arrays[name][row].tobytes() for name in sorted(ARRAYS))
    collect_garbage(path)
    rows_are_true(folder, complete=True)
    assert verify_store(path) == []


def test_a_hole_is_nan_for_plain_readers_and_no_row(folder: Path) -> None:
    key = make_key()
    with open_writer(folder, key, shard=(1, 2), **FACTS) as first:  # type: ignore[arg-type]
        lost = first.reserve(100)
        with open_writer(folder, key, shard=(2, 2), **FACTS) as second:  # type: ignore[arg-type]
            (number,) = second.reserve(10)
            rows = np.frombuffer(b"".join(map(digest_of, NAMES[:10])), np.uint8).reshape(-1, 16)
            second.commit(number, rows, NAMES[:10], features_of(NAMES[:10]))
    assert number == lost.stop
    group = zarr.open_group(folder / key.store_name, mode="r")
    size = first.chunk_rows
    assert group["cls"].shape[0] >= lost.stop * size
    assert np.isnan(group["cls"][: lost.stop * size]).all()
    assert not np.asarray(group["digests"][: lost.stop * size]).any()
    assert len(FeatureStore(folder / key.store_name)) == 10
    with open_writer(folder, key, **FACTS) as alone:  # type: ignore[arg-type]
        assert alone.reserve(1).start == number + 1


def test_what_needs_the_whole_store_refuses_while_a_shard_is_at_work(folder: Path) -> None:
    append_shard(folder, 1)
    path = folder / make_key().store_name
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    named = f"shard 2/3, is being written by process {os.getpid()} on .* since 0.0 minutes"
    with open_writer(folder, make_key(), shard=(2, 3), **FACTS):  # type: ignore[arg-type]
        for action in (
            lambda: collect_garbage(path),
            lambda: remove_store(path),
            lambda: seal(path, ()),
            lambda: drop_damage(path, ()),
            lambda: open_writer(folder, make_key(), **FACTS).__enter__(),  # type: ignore[arg-type]
        ):
            with pytest.raises(StoreLockedError, match=named):
                action()  # type: ignore[no-untyped-call]
        assert not path.with_suffix(".h5").exists()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    collect_garbage(path)
    remove_store(path)
    assert not list(folder.glob(".*zarr*"))


def test_a_shard_refuses_while_a_process_holds_the_store_alone(folder: Path) -> None:
    with (
        open_writer(folder, make_key(), **FACTS),  # type: ignore[arg-type]
        pytest.raises(StoreLockedError, match=f"process {os.getpid()}"),
        open_writer(folder, make_key(), shard=(1, 2), **FACTS),  # type: ignore[arg-type]
    ):
        pass


def test_a_shard_is_claimed_once_and_by_one_division(home: Path) -> None:
    store = home / "data" / "x.zarr"
    with claim_shard(store, (1, 3)), claim_shard(store, (2, 3)):
        with pytest.raises(StoreLockedError, match="shard 1/3 of"), claim_shard(store, (1, 3)):
            pass
        with pytest.raises(StoreLockedError, match="another division"), claim_shard(store, (1, 2)):
            pass
        with pytest.raises(StoreLockedError, match="2 shards are at work"), write_lock(store):
            pass
    with write_lock(store):
        pass


def test_the_claim_of_a_killed_shard_is_taken_over_and_one_of_another_host_is_not(home: Path) -> None:
    store = home / "data" / "x.zarr"
    code = (
        "import os, sys; from pathlib import Path; from featcache.store.lock import claim_shard\n"
        "with claim_shard(Path(sys.argv[1]), (1, 2)): os.kill(os.getpid(), 9)"
    )
    child = subprocess.run([sys.executable, "-c", code, str(store)], check=False, cwd=Path(__file__).parents[2])
    note = store.parent / ".x.zarr.1of2.lock.json"
    assert child.returncode == -9
    assert note.exists()
    with claim_shard(store, (1, 2)):
        assert json.loads(note.read_text())["pid"] == os.getpid()
    subprocess.run([sys.executable, "-c", code, str(store)], check=False, cwd=Path(__file__).parents[2])
    assert note.exists()
    with write_lock(store), pytest.raises(StoreLockedError):  # the dead shard hinders nobody, this holder does
        brief_lock(store).__enter__()
    assert not list(store.parent.glob(".*of*"))
    note.write_text(json.dumps({"pid": 1, "host": "another-host", "since": 0}))
    with pytest.raises(StoreLockedError, match="process 1 on another-host"), claim_shard(store, (1, 2)):
        pass
    with pytest.raises(StoreLockedError, match="shard 1/2, is being written by process 1 on another-host"):
        write_lock(store).__enter__()
    with claim_shard(store, (2, 2)):
        pass


def test_the_quarantine_of_other_shards_is_kept(folder: Path) -> None:
    append_shard(folder, 1)
    path = folder / make_key().store_name
    failures = {name: Failure(name, f"{name}.png", "bad", "mend it") for name in ("row1", "row2", "row3")}
    write_quarantine(path, (failures["row2"],), others={"row1", "row3"})
    write_quarantine(path, (failures["row1"],), others={"row2", "row3"})
    assert [failure.id for failure in FeatureStore(path).failures] == ["row1", "row2"]
    write_quarantine(path, (), others={"row1", "row3"})  # mended since
    assert [failure.id for failure in FeatureStore(path).failures] == ["row1"]
    assert [problem for problem in verify_store(path) if not problem.incomplete] == []


# A host of its own on a file system that passes no locks on: only the notes can keep the others out.
_HOST = """
import sys, time
from pathlib import Path
from featcache.store import lock

class Nothing:
    def __init__(self, path): pass
    def acquire(self, timeout): pass
    def release(self): pass

store, host, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
lock.FileLock = Nothing
lock._POLL = 0.0005
lock.socket.gethostname = lambda: host
read = lock._owner
lock._owner = lambda note: (read(note), time.sleep(0.001))[0]  # what was read is old when it is used
print("ready", flush=True)
sys.stdin.readline()
counter = store.with_name("counter")
for _ in range(rounds):
    with lock.brief_lock(store):
        value = int(counter.read_text())
        time.sleep(0.002)
        counter.write_text(str(value + 1))
"""


def test_hosts_that_see_no_locks_of_each_other_exclude_each_other_by_their_notes(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", _HOST, str(tmp_path / "x.zarr"), f"host{number}", "60"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for number in range(3)
    ]
    for host in hosts:
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
    for host in hosts:
        assert host.stdin is not None
        host.stdin.write("go\n")
        host.stdin.flush()
    for host in hosts:
        host.communicate()
    assert [host.returncode for host in hosts] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "180"
    assert [file.name for file in tmp_path.iterdir()] == ["counter"]

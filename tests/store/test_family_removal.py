"""``rm --family``: one family of tokens goes, whole or not at all; everything else stays bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from featcache.errors import ConfigurationError
from featcache.store import FeatureStore, TokenForm, open_writer, plan_gc, remove_family, verify_store
from featcache.store import family_removal as module
from featcache.store.packing import pack_hdf5
from tests.cli.test_commands import run
from tests.store.conftest import ARRAYS, MakeStore, digest_of, features_of, make_key

NAMES = [f"row{number}" for number in range(10)]
PLAIN, CODED = TokenForm(), TokenForm(dtype="int8")


def add_tokens(store: Path, form: TokenForm) -> None:
    digests = np.frombuffer(b"".join(map(digest_of, NAMES)), np.uint8).reshape(-1, 16)
    shapes = form.arrays((2, 2, 4))
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(1, 9, (len(NAMES), *shape)) for name, shape in shapes.items()}
    folder = store.parent
    facts = {"planned_rows": len(NAMES), "provenance": {}}
    with (
        open_writer(folder, make_key(), arrays=ARRAYS, **facts),
        open_writer(folder, make_key(), arrays=shapes, family=form.family, **facts) as writer,
    ):
        (number,) = writer.reserve(len(NAMES))
        writer.commit(number, digests, NAMES, rows)


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    path = make_store([NAMES])
    add_tokens(path, PLAIN)
    add_tokens(path, CODED)
    return path


def test_a_family_goes_and_the_rest_stays(store: Path) -> None:
    kept = FeatureStore(store)["patches_int8"][:]
    remove_family(store, "patches")
    assert verify_store(store) == []
    opened = FeatureStore(store)
    assert opened.names == [*ARRAYS, "patches_int8"]
    np.testing.assert_array_equal(opened["patches_int8"][:], kept)
    np.testing.assert_array_equal(opened["cls"][:], features_of(NAMES)["cls"])
    assert [path.name for path in store.iterdir() if path.name.startswith(".patches.")] == []


@pytest.mark.parametrize("instant", ["manifest", "rename", "tree"])
def test_a_kill_leaves_the_family_whole_or_a_leftover(
    store: Path, instant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = FeatureStore(store)["patches"][:]

    class KilledError(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        if instant == "manifest":
            patch.setattr(Path, "rename", die)
        elif instant == "rename":
            patch.setattr(module, "sync_folder", die)
        else:
            patch.setattr(module, "remove_locks", die)
        with pytest.raises(KilledError):
            remove_family(store, "patches")
    assert verify_store(store) == []
    if instant == "manifest":
        np.testing.assert_array_equal(FeatureStore(store)["patches"][:], before)
        remove_family(store, "patches")
    elif instant == "rename":
        assert len(plan_gc(store).leftovers) > 0
    add_tokens(store, PLAIN)
    assert verify_store(store) == []
    assert not (store / ".patches.partial").exists()
    np.testing.assert_array_equal(FeatureStore(store)["patches"][:], before)


def test_a_packed_store_is_written_without_the_array(store: Path) -> None:
    packed = pack_hdf5(FeatureStore(store))
    shutil.rmtree(store)
    remove_family(packed, "patches")
    assert verify_store(packed) == []
    assert FeatureStore(packed).names == [*ARRAYS, "patches_int8"]
    np.testing.assert_array_equal(FeatureStore(packed)["cls"][:], features_of(NAMES)["cls"])


def test_the_command_asks_and_names_what_there_is(store: Path) -> None:
    with pytest.raises(ConfigurationError, match="no family of tokens 'cls'"):
        remove_family(store, "cls")
    unknown = run("rm", "--store", store, "--family", "patches_l9", "--yes", check=False)
    assert unknown.returncode == 1
    assert "patches, patches_int8" in unknown.stderr
    refused = run("rm", "--store", store, "--family", "patches", check=False)
    assert (refused.returncode, (store / "patches").is_dir()) == (1, True)
    assert "nothing was removed" in refused.stderr
    run("rm", "--store", store, "--family", "patches", "--yes")
    assert not (store / "patches").exists()
    assert verify_store(store) == []

"""``plan_gc`` and ``collect_garbage``: what no sample needs any more, and leftovers of killed runs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.store.backend import NOT_FEATURES, locate_rows
from featcache.store.feature_store import digests_from_text
from featcache.store.keys import Key
from featcache.store.lock import write_lock
from featcache.store.manifest import Manifest, read_manifest, write_manifest
from featcache.store.samples import read_samples
from featcache.store.segments import read_segments, record_file
from featcache.store.writer import StoreWriter, open_writer
from featcache.store.zarr_backend import ZarrBackend, read_attributes, read_layout
from featcache.store.zarr_layout import chunk_file

__all__ = ["GarbagePlan", "collect_garbage", "plan_gc", "remove_store"]

_KEEP_SHARE = 0.75
"""A segment that holds at least this share of live rows stays as it is: rewriting it would not pay."""


@dataclass(frozen=True, slots=True)
class GarbagePlan:
    """What a collection would do."""

    live_rows: int
    """Committed rows that a sample needs."""
    dead_rows: int
    """Committed rows that none needs: removed or replaced files."""
    segments: tuple[int, ...]
    """Segments to be dissolved; their live rows move into new ones."""
    leftovers: tuple[Path, ...]
    """Chunks without a record, and partial files."""
    bytes: int
    """What goes away: the dissolved segments and the leftovers."""


def plan_gc(store: Path) -> GarbagePlan:
    """Find rows that no sample of the dataset's table needs, and leftovers. Changes nothing.

    A store without a samples table keeps all rows.
    """
    backend = ZarrBackend(store)
    digests, rows = backend.committed()
    live = _live_rows(store, digests, rows)
    chunk_rows = read_layout(store, "digests").chunk_rows
    sparse: dict[int, bool] = {}
    segments = read_segments(store, "vectors")
    for segment in segments:
        first = segment.number * chunk_rows
        alive = int(((live >= first) & (live < first + chunk_rows)).sum())
        held = int(segment.digests.any(axis=1).sum())
        if alive < _KEEP_SHARE * chunk_rows:
            sparse[segment.number] = alive < held
    # One sparse segment without dead rows is the end of the last run; several are worth packing into one.
    dissolved = list(sparse) if any(sparse.values()) or len(sparse) > 1 else []
    named = {name for segment in segments for name in segment.files}
    leftovers = [path for path in store.rglob("*.partial") if path.is_file()]
    for array in read_attributes(store)["families"]["vectors"]:
        chunks = (path for path in (store / array / "c").rglob("*") if path.is_file())
        leftovers += [path for path in chunks if path.relative_to(store).as_posix() not in named]
    gone = [store / name for segment in segments if segment.number in dissolved for name in segment.files]
    return GarbagePlan(
        live_rows=len(live),
        dead_rows=len(rows) - len(live),
        segments=tuple(dissolved),
        leftovers=tuple(dict.fromkeys(leftovers)),
        bytes=sum(path.stat().st_size for path in {*gone, *leftovers} if path.is_file()),
    )


def collect_garbage(store: Path) -> GarbagePlan:
    """Move live rows out of sparse segments, then remove those and all leftovers. Safe to kill at any instant.

    New segments are committed first, so that every live row exists at every moment; then the old records go, then
    their chunks. Segment numbers are not used again.
    """
    attributes = read_attributes(store)
    key = Key.from_dict(attributes["spec"])
    backend = ZarrBackend(store)
    names = [name for name in attributes["families"]["vectors"] if name not in NOT_FEATURES]
    shapes = {name: backend.describe(name)[0] for name in names}
    with open_writer(store.parent, key, arrays=shapes, planned_rows=1, provenance={}) as writer:
        plan = plan_gc(store)
        # Leftovers go first: the rewriting below may use the number of one.
        for leftover in plan.leftovers:
            leftover.unlink(missing_ok=True)
        backend = ZarrBackend(store)
        digests, rows = backend.committed()
        live = _live_rows(store, digests, rows)
        moving = live[np.isin(live // writer.chunk_rows, plan.segments)]
        _rewrite(writer, backend, names, moving, dict(zip(rows.tolist(), digests, strict=True)))
        noted = read_manifest(store) or Manifest()
        doomed = {record_file(store, "vectors", number).name for number in plan.segments}
        write_manifest(store, next_segment=max(noted.next_segment, writer.first_free), without=doomed)
        for number in plan.segments:
            record_file(store, "vectors", number).unlink()
        for number in plan.segments:
            for name in attributes["families"]["vectors"]:
                shutil.rmtree(store / name / "c" / str(number), ignore_errors=True)
                chunk_file(store, writer.layout(name), number).unlink(missing_ok=True)
    return plan


def remove_store(store: Path) -> None:
    """Remove a store: out of the way first, so that a kill leaves no half of it under its name."""
    read_attributes(store)
    doomed = store.with_name(f".{store.name}.removed")
    with write_lock(store):
        shutil.rmtree(doomed, ignore_errors=True)
        store.rename(doomed)
        shutil.rmtree(doomed)
    for file in store.parent.glob(f".{store.name}.lock*"):
        file.unlink(missing_ok=True)


def _live_rows(store: Path, digests: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers that the samples table needs, sorted."""
    table = read_samples(store.parent)
    wanted = digests if table is None else digests_from_text(table.frame["digest"].tolist())
    found = np.unique(locate_rows(digests, rows, wanted))
    return found[found >= 0]


def _rewrite(
    writer: StoreWriter,
    backend: ZarrBackend,
    names: list[str],
    moving: NDArray[np.int64],
    digest_of: dict[int, NDArray[np.uint8]],
) -> None:
    """Commit rows again, packed."""
    ids = backend.ids() if len(moving) else {}
    for position, number in enumerate(writer.reserve(len(moving))):
        part = moving[position * writer.chunk_rows : (position + 1) * writer.chunk_rows]
        writer.commit(
            number,
            np.stack([digest_of[row] for row in part.tolist()]),
            [ids[row] for row in part.tolist()],
            {name: backend.read(name, part) for name in names},
        )

"""``plan_gc`` and ``collect_garbage``: what no sample needs any more, and leftovers of killed runs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.store.backend import NOT_FEATURES, locate_rows, open_backend, token_families
from featcache.store.feature_store import digests_from_text
from featcache.store.forms import keep_rows
from featcache.store.keys import Key
from featcache.store.lock import refuse_live_shards
from featcache.store.manifest import Manifest, read_manifest, write_manifest
from featcache.store.samples import read_samples
from featcache.store.segments import read_segments, record_file
from featcache.store.writer import StoreWriter, open_writer
from featcache.store.zarr_backend import ZarrBackend, read_attributes, read_layout
from featcache.store.zarr_layout import chunk_file, family_of

__all__ = ["GarbagePlan", "collect_garbage", "plan_gc"]

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
    tokens: Mapping[str, GarbagePlan] = field(default_factory=dict)
    """The same for each family of tokens."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.segments and not self.leftovers and all(plan.idle for plan in self.tokens.values())

    @property
    def total_bytes(self) -> int:
        """What goes away in all families."""
        return self.bytes + sum(plan.bytes for plan in self.tokens.values())


def plan_gc(store: Path) -> GarbagePlan:
    """Find rows that no sample of the dataset's table needs, and leftovers. Changes nothing.

    A store without a samples table keeps all rows.
    """
    if store.is_file():
        return _plan_packed(store)
    return _plan(store, store.parent)


def _plan_packed(store: Path) -> GarbagePlan:
    digests = open_backend(store).committed()[0]
    live = len(_live_rows(store.parent, digests, np.arange(len(digests))))
    dead = len(digests) - live
    leftovers = tuple(store.parent.glob(f".{store.name}.partial"))
    share = store.stat().st_size * dead // max(1, len(digests))
    return GarbagePlan(
        live, dead, (0,) if dead else (), leftovers, share + sum(path.stat().st_size for path in leftovers)
    )


def _plan(store: Path, folder: Path) -> GarbagePlan:
    backend = ZarrBackend(store)
    digests, rows = backend.committed()
    live = _live_rows(folder, digests, rows)
    chunk_rows = read_layout(store, "digests").chunk_rows
    sparse: dict[int, bool] = {}
    segments = read_segments(store)
    for segment in segments:
        first = segment.number * chunk_rows
        alive = int(((live >= first) & (live < first + chunk_rows)).sum())
        held = int(segment.digests.any(axis=1).sum())
        if alive < _KEEP_SHARE * chunk_rows:
            sparse[segment.number] = alive < held
    # One sparse segment without dead rows is the end of the last run; several are worth packing into one.
    dissolved = list(sparse) if any(sparse.values()) or len(sparse) > 1 else []
    named = {name for segment in segments for name in segment.files}
    inside = token_families(store)
    partial = [path for path in store.rglob("*") if path.is_file() and _is_partial(path.relative_to(store))]
    leftovers = [path for path in partial if path.relative_to(store).parts[0] not in inside]
    for array in family_of(read_attributes(store))[1]:
        chunks = (path for path in (store / array / "c").rglob("*") if path.is_file())
        leftovers += [path for path in chunks if path.relative_to(store).as_posix() not in named]
    gone = [store / name for segment in segments if segment.number in dissolved for name in segment.files]
    return GarbagePlan(
        live_rows=len(live),
        dead_rows=len(rows) - len(live),
        segments=tuple(dissolved),
        leftovers=tuple(dict.fromkeys(leftovers)),
        bytes=sum(path.stat().st_size for path in {*gone, *leftovers} if path.is_file()),
        tokens={family: _plan(store / family, folder) for family in inside},
    )


def collect_garbage(store: Path) -> GarbagePlan:
    """Move live rows out of sparse segments, then remove those and all leftovers. Safe to kill at any instant.

    New segments are committed first, so that every live row exists at every moment; then the old records go, then
    their chunks. Segment numbers are not used again.

    Raises
    ------
    StoreLockedError
        If a process writes to the store, or shards do.
    """
    if store.is_file():
        refuse_live_shards(store.with_suffix(".zarr"))
        plan = plan_gc(store)
        for leftover in plan.leftovers:
            leftover.unlink(missing_ok=True)
        if plan.dead_rows:
            digests = open_backend(store).committed()[0]
            live = _live_rows(store.parent, digests, np.arange(len(digests)))
            keep_rows(store, digests[live])
        return plan
    with _reopened(store, store.parent) as writer:
        plan = plan_gc(store)
        _collect(store, store.parent, plan, writer)
        for family, own in plan.tokens.items():
            with _reopened(store / family, store.parent) as inner:
                _collect(store / family, store.parent, own, inner)
    return plan


def _is_partial(path: Path) -> bool:
    """Whether it is a leftover of a killed process, or inside one."""
    return any(part.endswith(".partial") for part in path.parts)


@contextlib.contextmanager
def _reopened(store: Path, folder: Path) -> Iterator[StoreWriter]:
    """A writer for a group that is there."""
    attributes = read_attributes(store)
    family, arrays = family_of(attributes)
    shapes = {name: tuple(shape) for name, shape in arrays.items() if name not in NOT_FEATURES}
    key = Key.from_dict(attributes["spec"])
    with open_writer(folder, key, arrays=shapes, planned_rows=1, provenance={}, family=family) as writer:
        yield writer


def _collect(store: Path, folder: Path, plan: GarbagePlan, writer: StoreWriter) -> None:
    """One group."""
    family, arrays = family_of(read_attributes(store))
    names = [name for name in arrays if name not in NOT_FEATURES]
    # Leftovers go first: the rewriting below may use the number of one.
    for leftover in plan.leftovers:
        leftover.unlink(missing_ok=True)
    backend = ZarrBackend(store)
    digests, rows = backend.committed()
    live = _live_rows(folder, digests, rows)
    moving = live[np.isin(live // writer.chunk_rows, plan.segments)]
    _rewrite(writer, backend, names, moving, dict(zip(rows.tolist(), digests, strict=True)))
    noted = read_manifest(store) or Manifest()
    doomed = {record_file(store, family, number).name for number in plan.segments}
    write_manifest(store, next_segment=max(noted.next_segment, writer.first_free), without=doomed)
    for number in plan.segments:
        record_file(store, family, number).unlink()
    for number in plan.segments:
        for name in arrays:
            shutil.rmtree(store / name / "c" / str(number), ignore_errors=True)
            chunk_file(store, writer.layout(name), number).unlink(missing_ok=True)


def _live_rows(folder: Path, digests: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers that the samples table of a dataset's folder needs, sorted."""
    table = read_samples(folder)
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

"""Who may write to a store: one process for long, or several shards that exclude each other only for moments.

Every hold is an advisory lock on a file beside the store, which the system releases when its owner dies, and a note
that names the owner. The note comes into being by one atomic step, so that two hosts on a file system that passes no
locks on cannot both have it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from featcache.errors import StoreError, StoreLockedError

__all__ = ["brief_lock", "claim_shard", "refuse_live_shards", "write_lock"]

_PATIENCE = 120.0
"""Seconds that a shard waits for the moment of another one."""

_POLL = 0.02
"""Seconds between two attempts."""

_CLAIM = re.compile(r"\.(\d+of\d+)\.lock(\.json)?$")
"""The end of the name of a shard's lock or note."""


@contextlib.contextmanager
def write_lock(store: Path) -> Iterator[None]:
    """Hold a store alone: an advisory lock on ``.<store>.lock`` beside it, while no shard is at work.

    The system releases it when the process ends, however it ends. The owner's note, ``.<store>.lock.json``, is for
    people; one that another host left behind is respected, since not every shared file system passes locks on.

    Raises
    ------
    StoreLockedError
        If another process holds it, or shards are at work; the message names process, host and age.
    StoreError
        If the folder cannot be written.
    """
    with _held(_lock_file(store), str(store), brief=True, patience=0.0):
        refuse_live_shards(store)
        _remove_claims(store)  # of the dead: the others come only while this lock is free
        _lasts(_note_of(_lock_file(store)))
        yield


@contextlib.contextmanager
def brief_lock(store: Path) -> Iterator[None]:
    """Hold a store for a moment, beside shards: waits for the moments of others, not for a hold that lasts.

    Raises
    ------
    StoreLockedError
        If a process holds the store alone, or a moment of another one does not end.
    StoreError
        If the folder cannot be written.
    """
    with _held(_lock_file(store), str(store), brief=True, patience=_PATIENCE):
        yield


@contextlib.contextmanager
def claim_shard(store: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Hold the claim of shard i of n, ``.<store>.<i>of<n>.lock``, as long as that shard is at work.

    Claims come and go only under :func:`brief_lock`, which this takes twice for a moment.

    Raises
    ------
    StoreLockedError
        If that shard is at work already, or shards of another division are, or a process holds the store alone.
    """
    place = _claim_file(store, shard)
    with contextlib.ExitStack() as claimed:
        with brief_lock(store):
            others = [name for name in _live_shards(store) if not name.endswith(f"of{shard[1]}")]
            if others:
                raise StoreLockedError(
                    f"shards of another division of {store} are at work: {', '.join(sorted(others))}; "
                    f"asked for {shard[0]}of{shard[1]}",
                    remedy="Wait for them, or divide by the same number.",
                )
            hold = _held(place, f"shard {shard[0]}/{shard[1]} of {store}", brief=False, patience=0.0)
            claimed.enter_context(hold)
        try:
            yield
        finally:
            with brief_lock(store):
                claimed.close()
                place.unlink(missing_ok=True)


def refuse_live_shards(store: Path) -> None:
    """Raise if shards of a store are at work.

    Raises
    ------
    StoreLockedError
        Names one of them with process, host and age.
    """
    live = _live_shards(store)
    if live:
        name, owner = min(live.items())
        more = f" ({len(live)} shards are at work)" if len(live) > 1 else ""
        raise _locked(f"{store}, shard {name.replace('of', '/')},", owner, _note_of(_claim_file(store, name)), more)


def _remove_claims(store: Path) -> None:
    for file in store.parent.glob(f".{store.name}.*of*.lock*"):
        if _CLAIM.search(file.name):
            file.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Owner:
    """What a note says."""

    pid: int
    host: str
    since: float
    """Seconds since 1970."""
    brief: bool = False
    """Whether it is a hold of a moment."""

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def seems_alive(self) -> bool:
        """Whether there is such a process; for those of other hosts the answer is yes."""
        if not self.here or os.name != "posix":
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True


def _live_shards(store: Path) -> dict[str, _Owner | None]:
    """Claims that are held, ``<i>of<n>`` to owner. Notes of dead owners are left to the next claim."""
    live = {}
    for place in store.parent.glob(f".{store.name}.*of*.lock*"):
        found = _CLAIM.search(place.name)
        if found is None or found[1] in live:
            continue
        claim = _claim_file(store, found[1])
        owner = _owner(_note_of(claim))
        if (claim.exists() and _is_locked(claim)) or (owner is not None and not owner.here):
            live[found[1]] = owner
    return live


def _is_locked(place: Path) -> bool:
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


@contextlib.contextmanager
def _held(place: Path, what: str, *, brief: bool, patience: float) -> Iterator[None]:
    """Hold one lock with its note."""
    lock, note = FileLock(place), _note_of(place)
    deadline = time.monotonic() + patience
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        while not _taken(lock, note, brief=brief):
            owner = _owner(note)
            lasting = owner is not None and not owner.brief and owner.seems_alive
            if lasting or time.monotonic() >= deadline:
                raise _locked(what, owner, note)
            time.sleep(_POLL)
    except OSError as error:
        raise StoreError(
            f"cannot write beside {place.parent / what}: {error.strerror or error}",
            remedy="Choose a home that this user may write with --home or FEATCACHE_HOME.",
        ) from error
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _taken(lock: FileLock, note: Path, *, brief: bool) -> bool:
    """Try once to take a lock and to put the note down."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    owner = _owner(note)
    if owner is not None and owner.here:  # of this host and without its lock: it died
        note.unlink(missing_ok=True)
        owner = None
    if owner is None and _put_note(note, brief=brief):  # never removed unread: it may be that of another host by now
        return True
    lock.release()
    return False


def _put_note(note: Path, *, brief: bool) -> bool:
    """Make the note unless there is one, in one step that is atomic on shared file systems too."""
    aside = _aside(note)
    aside.write_text(_own_note(brief=brief))
    try:
        os.link(aside, note)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with note.open("x") as file:
                file.write(_own_note(brief=brief))
        except FileExistsError:
            return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def _lasts(note: Path) -> None:
    """Say in one's own note that the hold is no longer one of a moment."""
    aside = _aside(note)
    aside.write_text(_own_note(brief=False))
    aside.replace(note)


def _aside(note: Path) -> Path:
    return note.with_name(f"{note.name}.{socket.gethostname()}.{os.getpid()}")


def _own_note(*, brief: bool) -> str:
    return json.dumps(asdict(_Owner(os.getpid(), socket.gethostname(), time.time(), brief)))


def _owner(note: Path) -> _Owner | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return _Owner(int(found["pid"]), str(found["host"]), float(found["since"]), bool(found.get("brief", False)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _lock_file(store: Path) -> Path:
    return store.with_name(f".{store.name}.lock")


def _claim_file(store: Path, shard: tuple[int, int] | str) -> Path:
    name = shard if isinstance(shard, str) else f"{shard[0]}of{shard[1]}"
    return store.with_name(f".{store.name}.{name}.lock")


def _note_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _locked(what: str, owner: _Owner | None, note: Path, more: str = "") -> StoreLockedError:
    if owner is None:
        remedy = f"Try again later. If no process writes, remove {note}."
        return StoreLockedError(f"{what} is being written by another process{more}", remedy=remedy)
    minutes = (time.time() - owner.since) / 60
    return StoreLockedError(
        f"{what} is being written by process {owner.pid} on {owner.host} since {minutes:.1f} minutes{more}",
        remedy=f"Wait for it, or stop it. If {owner.host} died with it, remove {note}.",
    )

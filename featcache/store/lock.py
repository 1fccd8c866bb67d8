"""One writer a store: a lock that the system releases when its owner dies, and a note that names the owner."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from featcache.errors import StoreError, StoreLockedError

__all__ = ["write_lock"]


@contextlib.contextmanager
def write_lock(store: Path) -> Iterator[None]:
    """Hold the lock of a store: an advisory lock on ``.<store>.lock`` beside it.

    The system releases it when the process ends, however it ends. The owner's note, ``.<store>.lock.json``, is for
    people; one that another host left behind is respected, since not every shared file system passes locks on.

    Raises
    ------
    StoreLockedError
        If another process holds it; the message names process, host and age.
    StoreError
        If the folder cannot be written.
    """
    note = store.with_name(f".{store.name}.lock.json")
    lock = FileLock(store.with_name(f".{store.name}.lock"))
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise _locked(store, note) from None
    except OSError as error:
        raise StoreError(
            f"cannot write beside {store}: {error.strerror or error}",
            remedy="Choose a home that this user may write with --home or FEATCACHE_HOME.",
        ) from error
    try:
        owner = _owner(note)
        if owner is not None and owner["host"] != socket.gethostname():
            raise _locked(store, note)
        note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        yield
        note.unlink(missing_ok=True)
    except StoreLockedError:
        raise
    except BaseException:
        note.unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _locked(store: Path, note: Path) -> StoreLockedError:
    owner = _owner(note)
    if owner is None:
        return StoreLockedError(f"{store} is being written by another process", remedy="Try again later.")
    minutes = (time.time() - float(str(owner["since"]))) / 60
    return StoreLockedError(
        f"{store} is being written by process {owner['pid']} on {owner['host']} since {minutes:.1f} minutes",
        remedy=f"Wait for it, or stop it. If {owner['host']} died with it, remove {note}.",
    )


def _owner(note: Path) -> dict[str, object] | None:
    try:
        owner = json.loads(note.read_text(encoding="utf-8"))
        return {"pid": int(owner["pid"]), "host": str(owner["host"]), "since": float(owner["since"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None

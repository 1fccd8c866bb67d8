"""One writer a store: a lock file that names its owner."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from featcache.errors import StoreError, StoreLockedError

__all__ = ["write_lock"]


@contextlib.contextmanager
def write_lock(store: Path) -> Iterator[None]:
    """Hold the lock of a store: an exclusively created file beside it.

    A lock whose owner was a process of this host that no longer runs is taken over.

    Raises
    ------
    StoreLockedError
        If another process holds it; the message names process, host and age.
    """
    path = store.with_name(f".{store.name}.lock")
    store.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(3):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _remove_if_dead(path, store)
            continue
        except OSError as error:
            raise StoreError(
                f"cannot write beside {store}: {error.strerror}",
                remedy="Choose a home that this user may write with --home or FEATCACHE_HOME.",
            ) from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
        return
    raise StoreLockedError(f"{store} is being locked by several processes", remedy="Try again.")


def _remove_if_dead(path: Path, store: Path) -> None:
    """Remove a dead owner's lock; raise if the owner lives or cannot be known."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        pid, host, since = int(owner["pid"]), str(owner["host"]), float(owner["since"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        # Created a moment ago and not yet written, or cut off by a crash: only age tells them apart.
        age = time.time() - path.stat().st_mtime
        if age > 60:
            path.unlink(missing_ok=True)
            return
        raise StoreLockedError(f"{store} was locked {age:.0f} s ago", remedy="Try again.") from None
    if host == socket.gethostname() and not _runs(pid):
        path.unlink(missing_ok=True)
        return
    raise StoreLockedError(
        f"{store} is being written by process {pid} on {host} since {(time.time() - since) / 60:.1f} minutes",
        remedy=f"Wait for it, or stop it. If it died on {host}, remove {path}.",
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

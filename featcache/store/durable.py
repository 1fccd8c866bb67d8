"""Files that are either wholly there or not at all, also after a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from featcache.errors import StoreError

__all__ = ["explained", "sync_folder", "write_durably", "write_together"]


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write to the side, fsync, rename over ``path``, fsync the folder.

    The partial file ends in ``.partial``; one that a crash leaves behind is never read and is overwritten
    by the next write of the same process or removed by the next writer of the store.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write several files as :func:`write_durably` does one: none is renamed before all are on disk.

    Only a crash between two renames, which follow each other at once, leaves some of them out.
    """
    side = f".{socket.gethostname()}.{os.getpid()}.partial"
    partials = {path.with_name(f".{path.name}{side}"): path for path in contents}
    try:
        for partial, path in partials.items():
            with partial.open("wb") as file:
                file.write(contents[path])
                file.flush()
                os.fsync(file.fileno())
        for partial, path in partials.items():
            partial.replace(path)
    except BaseException:
        for partial in partials:
            partial.unlink(missing_ok=True)
        raise
    for folder in dict.fromkeys(path.parent for path in contents):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the platform can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = "Free some space, or move the home with FEATCACHE_HOME"
        else:
            free = "Make the home writable"
        raise StoreError(
            f"cannot write to {path}: {error.strerror or error}",
            remedy=f"{free}; what was committed stays, and the same command goes on from there.",
        ) from error

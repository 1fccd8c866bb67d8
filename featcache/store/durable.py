"""Files that are either wholly there or not at all, also after a power cut."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["sync_folder", "write_durably"]


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write to the side, fsync, rename over ``path``, fsync the folder.

    The partial file ends in ``.partial``; one that a crash leaves behind is never read and is overwritten
    by the next write of the same process or removed by the next writer of the store.
    """
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the platform can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

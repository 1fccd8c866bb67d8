"""``SteadyFile``: where HDF5 writes, so that a full disk is an error and not the end of the process."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

__all__ = ["SteadyFile"]


class SteadyFile(io.FileIO):
    """A file that remembers the first failed write and raises it when it is closed.

    HDF5 cannot close a file whose last writes fail (a full disk), and ends the process later.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, content: Any, /) -> int:
        """Write all of it, or note why not."""
        view = memoryview(content).cast("B")
        written = 0
        try:
            while self._error is None and written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self._error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the length, or note why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def close(self) -> None:
        """Close, and raise the first failure."""
        super().close()
        if self._error is not None:
            raise self._error

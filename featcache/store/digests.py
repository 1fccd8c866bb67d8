"""What a row is: digests of file content, remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from featcache.store.home import state_folder

__all__ = ["StatIndex", "file_digest", "row_digest"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest BLOB);
CREATE TABLE IF NOT EXISTS weights (identity TEXT PRIMARY KEY, digest TEXT);
"""


def file_digest(path: Path) -> bytes:
    """BLAKE2b-128 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def row_digest(content: bytes, selector: str) -> bytes:
    """BLAKE2b-128 of a file's digest (16 bytes) followed by the selector's canonical text (UTF-8)."""
    return hashlib.blake2b(content + selector.encode(), digest_size=16).digest()


class StatIndex:
    """Remembers digests in the user's state folder, so that unchanged files are not read again.

    A file counts as unchanged if its path, size and modification time (ns) are. The index is a convenience:
    deleting it costs time, never correctness, and where the folder cannot be written nothing is remembered.

    Parameters
    ----------
    folder
        Default: the user's state folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = (state_folder() if folder is None else folder) / "stat-index.sqlite"

    def _connect(self) -> sqlite3.Connection:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._file, timeout=30)
            connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error):
            connection = sqlite3.connect(":memory:")
            connection.executescript(_SCHEMA)
        return connection

    def file_digests(
        self, root: Path, paths: Iterable[str], workers: int = 4
    ) -> tuple[dict[str, bytes], dict[str, OSError]]:
        """Digests of files below a root, reading only those that changed.

        Parameters
        ----------
        root
            The folder.
        paths
            Relative to it. Text, not Path objects: there may be millions.
        workers
            Threads that read changed files.

        Returns
        -------
        digests
            By path.
        failures
            The error of each file that could not be read.
        """
        digests: dict[str, bytes] = {}
        failures: dict[str, OSError] = {}
        changed: dict[str, tuple[int, int]] = {}
        prefix = f"{root}{os.sep}"
        connection = self._connect()
        try:
            known = self._known(connection, prefix)
            for path in paths:
                try:
                    status = os.stat(prefix + path)  # noqa: PTH116 - see above
                except OSError as error:
                    failures[path] = error
                    continue
                remembered = known.get(prefix + path)
                if remembered is not None and remembered[:2] == (status.st_size, status.st_mtime_ns):
                    digests[path] = remembered[2]
                else:
                    changed[path] = (status.st_size, status.st_mtime_ns)
            with ThreadPoolExecutor(workers) as pool:
                futures = {path: pool.submit(file_digest, root / path) for path in changed}
            rows = []
            for path, future in futures.items():
                try:
                    digests[path] = future.result()
                    rows.append((prefix + path, *changed[path], digests[path]))
                except OSError as error:
                    failures[path] = error
            with contextlib.suppress(sqlite3.OperationalError), connection:  # a read-only index remembers nothing
                connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)
        finally:
            connection.close()
        return digests, failures

    def weights_digest(self, identity: str) -> str | None:
        """The digest of weights seen before under this identity (path, size and time); None if unknown."""
        connection = self._connect()
        try:
            row = connection.execute("SELECT digest FROM weights WHERE identity = ?", (identity,)).fetchone()
        finally:
            connection.close()
        return None if row is None else str(row[0])

    def remember_weights(self, identity: str, digest: str) -> None:
        """Note the digest of weights for :meth:`weights_digest`."""
        connection = self._connect()
        try:
            with contextlib.suppress(sqlite3.OperationalError), connection:  # a read-only index remembers nothing
                connection.execute("INSERT OR REPLACE INTO weights VALUES (?, ?)", (identity, digest))
        finally:
            connection.close()

    def forget_weights(self, identity: str) -> None:
        """Drop what :meth:`remember_weights` noted."""
        with (
            contextlib.closing(self._connect()) as connection,
            contextlib.suppress(sqlite3.OperationalError),
            connection,
        ):
            connection.execute("DELETE FROM weights WHERE identity = ?", (identity,))

    @staticmethod
    def _known(connection: sqlite3.Connection, prefix: str) -> dict[str, tuple[int, int, bytes]]:
        rows = connection.execute(
            "SELECT path, size, mtime_ns, digest FROM files WHERE path >= ? AND path < ?",
            (prefix, prefix + "\U0010ffff"),
        )
        return {path: (size, mtime_ns, digest) for path, size, mtime_ns, digest in rows}

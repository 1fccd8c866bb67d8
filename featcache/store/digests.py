"""What a row is: digests of file content, remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import numpy as np

from featcache.store.home import state_folder

__all__ = ["StatIndex", "content_digest", "file_digest", "joined_digest", "row_digest"]

_SCHEMA = """
DROP TABLE IF EXISTS files;
CREATE TABLE IF NOT EXISTS stats (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (names BLOB PRIMARY KEY, stats BLOB, digests BLOB);
CREATE TABLE IF NOT EXISTS weights (identity TEXT PRIMARY KEY, digest TEXT);
"""


def file_digest(path: Path) -> bytes:
    """BLAKE2b-128 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def content_digest(files: Sequence[Path]) -> bytes:
    """Digest of the one file that a row comes from, or of several in their order (the slices of a DICOM series)."""
    return joined_digest([file_digest(file) for file in files])


def joined_digest(digests: Sequence[bytes]) -> bytes:
    """One digest itself; of several the BLAKE2b-128 of all of them side by side."""
    return digests[0] if len(digests) == 1 else hashlib.blake2b(b"".join(digests), digest_size=16).digest()


def row_digest(content: bytes, selector: str) -> bytes:
    """BLAKE2b-128 of a file's digest (16 bytes) followed by the selector's canonical text (UTF-8)."""
    return hashlib.blake2b(content + selector.encode(), digest_size=16).digest()


_WORKERS = 4
"""Threads that read files that changed."""


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

    def row_digests(
        self,
        root: Path,
        paths: Sequence[str],
        selectors: Sequence[str],
        parts: Mapping[int, tuple[str, ...]] | None = None,
    ) -> tuple[list[bytes | None], dict[str, OSError]]:
        """Digest of each row, reading only files that changed.

        Parameters
        ----------
        root
            The folder.
        paths
            File of each row, relative to it. Text, not Path objects: there may be millions; they may repeat.
        selectors
            Canonical text of each row's selector.
        parts
            By row, its files where they are not the one at its path: the slices of a series, in their order.

        Returns
        -------
        digests
            16 bytes each; None where the file cannot be read.
        failures
            The error of each file that cannot be read, by path.

        Notes
        -----
        A snapshot of all rows is kept beside what is known of each file: where no size and no time changed, one
        comparison replaces a look-up and a hash for each row.
        """
        parts = parts or {}
        several = [f"{row}:" + "\0".join(files) for row, files in parts.items()]
        names = hashlib.blake2b("\0".join([str(root), *paths, *selectors, *several]).encode(), digest_size=16).digest()
        own = paths if not parts else [path for row, path in enumerate(paths) if row not in parts]
        stats, failures = _stats(root, [*own, *(file for files in parts.values() for file in files)])
        stamp = np.array(list(stats.values()), np.int64).tobytes()
        with contextlib.closing(self._connect()) as connection:
            if not failures:
                query = "SELECT digests FROM snapshots WHERE names = ? AND stats = ?"
                found = connection.execute(query, (names, stamp)).fetchone()
                if found is not None:
                    joined = found[0]
                    return [joined[first : first + 16] for first in range(0, len(joined), 16)], {}
            content = self._file_digests(connection, root, stats, failures)
            rows = [
                row_digest(content[path], selector) if path in content else None
                for path, selector in zip(paths, selectors, strict=True)
            ]
            for row, files in parts.items():
                there = bool(files) and all(file in content for file in files)
                whole = joined_digest([content[file] for file in files]) if there else b""
                rows[row] = row_digest(whole, selectors[row]) if there else None
            if not failures and None not in rows:
                values = (names, stamp, b"".join(row for row in rows if row is not None))
                with contextlib.suppress(sqlite3.OperationalError), connection:
                    connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", values)
        return rows, failures

    def _file_digests(
        self,
        connection: sqlite3.Connection,
        root: Path,
        stats: dict[str, tuple[int, int]],
        failures: dict[str, OSError],
    ) -> dict[str, bytes]:
        """Digest of each file that can be read, by path; errors of others are added to ``failures``."""
        prefix = f"{root}{os.sep}"
        known = self._known(connection, prefix)
        digests: dict[str, bytes] = {}
        changed: list[str] = []
        for path, stat in stats.items():
            remembered = known.get(prefix + path)
            if remembered is not None and remembered[1:3] == stat:
                digests[path] = remembered[3]
            else:
                changed.append(path)
        with ThreadPoolExecutor(_WORKERS) as pool:
            futures = {path: pool.submit(file_digest, root / path) for path in changed}
        rows = []
        for path, future in futures.items():
            try:
                digests[path] = future.result()
                rows.append((prefix + path, *stats[path], digests[path]))
            except OSError as error:
                failures[path] = error
        with contextlib.suppress(sqlite3.OperationalError), connection:  # a read-only index remembers nothing
            connection.executemany("INSERT OR REPLACE INTO stats VALUES (?, ?, ?, ?)", rows)
        return digests

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
    def _known(connection: sqlite3.Connection, prefix: str) -> dict[str, tuple[str, int, int, bytes]]:
        rows = connection.execute(
            "SELECT path, size, mtime_ns, digest FROM stats WHERE path >= ? AND path < ?",
            (prefix, prefix + "\U0010ffff"),
        )
        return {row[0]: row for row in rows}


def _stats(root: Path, paths: Iterable[str]) -> tuple[dict[str, tuple[int, int]], dict[str, OSError]]:
    """(size, time of change in ns) of each file, and the errors of those that have none."""
    prefix = f"{root}{os.sep}"
    stats: dict[str, tuple[int, int]] = {}
    failures: dict[str, OSError] = {}
    for path in dict.fromkeys(paths):
        try:
            status = os.stat(prefix + path)  # noqa: PTH116 - text is five times as fast as Path objects
            if not (S_ISREG(status.st_mode) or S_ISDIR(status.st_mode)):
                raise OSError(errno.EINVAL, "a pipe, socket or device, no file")  # to open it may wait for ever
            stats[path] = (status.st_size, status.st_mtime_ns)
        except OSError as error:
            failures[path] = error
    return stats, failures

"""The files below a root, listed in one walk, and what is said about those that are left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import pandas as pd

from featcache.errors import DatasetError

__all__ = ["Tree", "as_on_disk", "base_names", "left_out_notes", "natural_key", "posix", "shown", "walk"]


@dataclass(frozen=True, slots=True)
class Tree:
    """What lies below a root."""

    root: Path
    """The folder."""
    files: tuple[str, ...]
    """Paths relative to the root with ``/``, sorted; hidden files and folders are left out."""
    links: tuple[str, ...]
    """Names of links to folders, which are not followed: they may lead in circles or out of the root."""
    unprintable: int
    """Files that were left out because their names are no text."""
    special: tuple[str, ...] = ()
    """Pipes, sockets and devices, which are left out: to open one may wait for ever."""
    unreadable: tuple[str, ...] = ()
    """Folders below the root that may not be listed; what lies in them is not known."""

    def ending(self, *extensions: str) -> list[str]:
        """Files with one of these extensions, in any case.

        Examples
        --------
        >>> Tree(Path("/"), ("a.PNG", "b.txt"), (), 0).ending(".png")
        ['a.PNG']
        """
        if not extensions:
            return []
        return [path for path in self.files if path.endswith(extensions) or path.lower().endswith(extensions)]

    def find(self, names: pd.Series[str], *extensions: str) -> tuple[pd.Series[str], int]:
        """Where files with these names lie, whatever their folder and the case of their letters.

        Parameters
        ----------
        names
            (n,) file names without folders.
        *extensions
            Only among files with these.

        Returns
        -------
        paths
            (n,) relative paths; missing where there is no such file.
        doubled : int
            How many of the names lie in more than one folder; the first path is taken.
        """
        places: dict[str, str] = {}
        doubled: set[str] = set()
        for path in self.ending(*extensions):
            name = path[path.rfind("/") + 1 :]
            if places.setdefault(name, path) != path:
                doubled.add(name)
        wanted = names.tolist()
        found = [places.get(name) for name in wanted]
        if None in found:
            lower = {name.lower(): path for name, path in reversed(places.items())}
            found = [
                lower.get(name.lower()) if path is None else path for name, path in zip(wanted, found, strict=True)
            ]
        return pd.Series(found, index=names.index, dtype="str"), len(doubled.intersection(wanted)) if doubled else 0


def walk(root: Path) -> Tree:
    """List a folder and all below it: one system call a folder, none a file.

    Raises
    ------
    DatasetError
        If the root itself cannot be read.
    """
    files: list[str] = []
    links: list[str] = []
    special: list[str] = []
    unreadable: list[str] = []
    unprintable = 0
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(f"{root}/{prefix}") as found:
                entries = list(found)
        except OSError as error:
            if not prefix:
                raise DatasetError(
                    f"a folder cannot be read: {root}: {error.strerror}", remedy="Give this user access."
                ) from error
            unreadable.append(prefix.rstrip("/"))
            continue
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if _is_folder(entry):
                if entry.is_symlink():
                    links.append(name)
                else:
                    waiting.append(f"{prefix}{name}/")
            elif not name.isprintable():
                unprintable += 1
            elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                files.append(prefix + name)
            else:
                special.append(prefix + name)
    return Tree(
        root,
        tuple(sorted(files)),
        tuple(sorted(links)),
        unprintable,
        special=tuple(sorted(special)),
        unreadable=tuple(sorted(unreadable)),
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself: a file, which cannot be read
        return False


def left_out_notes(tree: Tree, *, foreign: int = 0, doubled: int = 0) -> tuple[str, ...]:
    """Sentences on files that are not in the samples."""
    notes = []
    if foreign:
        notes.append(f"{foreign} files are no images by their extension and were left out.")
    if tree.unprintable:
        notes.append(f"{tree.unprintable} files were left out: their names are not valid text; rename them.")
    if tree.unreadable:
        notes.append(
            f"{len(tree.unreadable)} folders cannot be read, and what lies in them is left out: "
            f"{shown(tree.unreadable)}; give this user access."
        )
    if tree.special:
        notes.append(f"{len(tree.special)} pipes, sockets or devices were left out: {shown(tree.special)}.")
    if tree.links:
        notes.append(f"{len(tree.links)} links to folders were not followed; copy or mount what they point to.")
    if doubled:
        notes.append(f"{doubled} images lie in more than one folder; the first in alphabetical order was taken.")
    return tuple(notes)


def as_on_disk(root: Path, paths: pd.Series[str]) -> tuple[pd.Series[str], tuple[str, ...]]:
    """Paths of a table in the letters of the file system: ``Images/A.png`` where ``images/a.PNG`` lies.

    Each folder is listed once, no file is asked for. What is not there in any letters stays as it is.

    Parameters
    ----------
    root
        The folder.
    paths
        (n,) relative paths with ``/``.

    Returns
    -------
    places
        (n,) as they lie below the root.
    notes
        How many differ from the table's.
    """
    listed: dict[str, tuple[frozenset[str], dict[str, str]]] = {}
    known: dict[str, str] = {"": ""}

    def place(path: str) -> str:
        if path not in known:
            folder, _, name = path.rpartition("/")
            above = place(folder)
            if above not in listed:
                try:
                    names = frozenset(os.listdir(f"{root}/{above}"))  # noqa: PTH208 - there may be many folders
                except OSError:
                    names = frozenset()  # what lies in it is quarantined with the reason
                listed[above] = names, {}
            names, lower = listed[above]
            if name not in names and names and not lower:
                lower.update({other.lower(): other for other in sorted(names, reverse=True)})
            found = name if name in names else lower.get(name.lower(), name)
            known[path] = f"{above}/{found}" if above else found
        return known[path]

    given = paths.tolist()
    places = [place(path) for path in given]
    count = sum(one != other for one, other in zip(given, places, strict=True))
    said = (f"{count} paths of the table differ from those of the files in upper and lower case.",) if count else ()
    return pd.Series(places, index=paths.index, dtype="str"), said


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which ``slice 9`` comes before ``slice 10``.

    Examples
    --------
    >>> sorted(["10.png", "9.png"], key=natural_key)
    ['9.png', '10.png']
    """
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts if part)


def posix(path: str) -> str:
    """A path of a label file with ``/``, also where it was written on Windows."""
    return PureWindowsPath(path).as_posix() if "\\" in path else path


def base_names(paths: pd.Series[str]) -> pd.Series[str]:
    """The last parts of paths, whatever system they were written on."""
    if not paths.str.contains(r"[/\\]").any():
        return paths
    return pd.Series([posix(path).rsplit("/", 1)[-1] for path in paths.tolist()], index=paths.index, dtype="str")


def shown(items: Iterable[str], limit: int = 3) -> str:
    """The first few of many, for a message."""
    listed = list(items)
    return ", ".join(listed[:limit]) + (" …" if len(listed) > limit else "")

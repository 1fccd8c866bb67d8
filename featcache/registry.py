"""One generic registry: rows of data, heavy parts loaded by a dotted name when they are used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from featcache.errors import UnknownNameError

__all__ = ["Registry", "load_dotted"]


class Row(Protocol):
    """What a registry needs of its rows."""

    @property
    def name(self) -> str:
        """The unique registry name."""


RowT = TypeVar("RowT", bound=Row)


class Registry(Generic[RowT]):
    """Named rows in the order in which they were added.

    Parameters
    ----------
    kind
        The singular noun for messages, for example ``"dataset"``.
    rows
        Frozen records with a unique ``name``.

    Raises
    ------
    ValueError
        If two rows have the same name.
    """

    def __init__(self, kind: str, rows: Iterable[RowT] = ()) -> None:
        self.kind = kind
        self._rows: dict[str, RowT] = {}
        for row in rows:
            self.add(row)

    def add(self, row: RowT) -> None:
        """Add a row; a name that is taken is an error."""
        if row.name in self._rows:
            raise ValueError(f"{self.kind} {row.name!r} is already registered")
        self._rows[row.name] = row

    def __getitem__(self, name: str) -> RowT:
        try:
            return self._rows[name]
        except KeyError:
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}{nearest(name, self._rows)}",
                remedy="`featcache probe --help` lists them."
                if self.kind == "probe"
                else f"`featcache {self.kind}s` lists all of them.",
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[RowT]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def names(self) -> list[str]:
        """The names, in the order of registration."""
        return list(self._rows)


def nearest(name: str, names: Iterable[str]) -> str:
    """A clause that names the closest matches, or all names when few; empty if there are none.

    Examples
    --------
    >>> nearest("dinov2_vitl", ["dinov2_vitl14", "resnet152"])
    "; did you mean 'dinov2_vitl14'?"
    """
    known = list(names)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(match) for match in close) + "?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 12 else ""


def load_dotted(target: str) -> Any:
    """Import ``"package.module:attribute"`` and return the attribute."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)

"""The bytes of a Zarr v3 group: metadata documents and uncompressed chunks with a crc32c.

Writing chunks is ours because a commit needs what no Zarr library promises: write to the side, fsync,
rename. Reading is ours because uncompressed chunks can be read straight into place. Any Zarr v3 library
reads the result; ``docs/format.md`` is the specification.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import crc32c
import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreCorruptError
from featcache.store.token_forms import SCALES, TOKENS, TokenForm

__all__ = [
    "ArrayLayout",
    "chunk_file",
    "chunk_name",
    "decode_chunk",
    "decode_strings",
    "encode_chunk",
    "encode_strings",
    "family_of",
    "group_document",
    "layouts_of",
    "metadata_digest",
    "to_json",
]

ArrayType = Literal["float16", "float32", "uint8", "int8", "string"]


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """Type and chunking of one array; rows are its first axis."""

    name: str
    """Its folder in the group."""
    dtype: ArrayType
    """Little-endian numbers, or ``string`` (UTF-8, vlen-utf8 codec)."""
    row_shape: tuple[int, ...]
    """Shape of one row; () for one value a row."""
    chunk_rows: int
    """Rows of a segment, which is one file; the other axes are not split."""
    sharded: bool = False
    """The file is a shard with one chunk a row, so that one row is read and checked alone; else it is one chunk."""

    def document(self, rows: int) -> dict[str, Any]:
        """The array's ``zarr.json`` at a length of ``rows``."""
        serializer: dict[str, Any] = (
            {"name": "vlen-utf8", "configuration": {}}
            if self.dtype == "string"
            else {"name": "bytes"}
            if self.dtype in ("uint8", "int8")
            else {"name": "bytes", "configuration": {"endian": "little"}}
        )
        codecs: list[dict[str, Any]] = [serializer, {"name": "crc32c"}]
        if self.sharded:
            index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
            shard = {"chunk_shape": [1, *self.row_shape], "codecs": codecs, "index_codecs": index}
            codecs = [{"name": "sharding_indexed", "configuration": {**shard, "index_location": "end"}}]
        fill_value: str | int = "NaN" if self.dtype.startswith("float") else "" if self.dtype == "string" else 0
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, *self.row_shape],
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.chunk_rows, *self.row_shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill_value,
            "codecs": codecs,
            "attributes": {},
            "storage_transformers": [],
        }

    @classmethod
    def from_document(cls, name: str, document: dict[str, Any]) -> ArrayLayout:
        """The layout that a ``zarr.json`` describes."""
        chunk_shape = document["chunk_grid"]["configuration"]["chunk_shape"]
        sharded = document["codecs"][0]["name"] == "sharding_indexed"
        return cls(name, document["data_type"], tuple(document["shape"][1:]), int(chunk_shape[0]), sharded)

    @property
    def entry_bytes(self) -> int:
        """Bytes of one row in a shard: its values and their crc32c."""
        return self.row_bytes + 4

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk; numeric arrays only."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.row_shape, dtype=np.int64))


def layouts_of(attributes: Mapping[str, Any]) -> dict[str, ArrayLayout]:
    """The arrays that the group's attributes declare, by name: what their own documents must say."""
    names: dict[str, ArrayType] = {"digests": "uint8", "ids": "string"}
    kinds: dict[str, ArrayType] = {"float32": "float32", "uint8": "uint8"}
    stored = kinds.get(attributes["spec"]["dtype"], "float16")
    family, arrays = family_of(attributes)
    form = TokenForm.of_family(family)
    coded: dict[str, ArrayType] = {}
    if form is not None and form.dtype == "int8":
        coded = {TOKENS: "int8", SCALES: "float32"}
    return {
        name: ArrayLayout(
            name,
            names.get(name) or coded.get(name, stored),
            tuple(shape),
            int(attributes["chunk_rows"]),
            sharded=(family != "vectors" or stored == "uint8") and name not in names,
        )
        for name, shape in arrays.items()
    }


def family_of(attributes: Mapping[str, Any]) -> tuple[str, dict[str, list[int]]]:
    """Name of the one family that a group holds, and the shape of one row of each of its arrays."""
    ((family, arrays),) = attributes["families"].items()
    return family, arrays


def group_document(attributes: dict[str, Any]) -> dict[str, Any]:
    """The ``zarr.json`` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def metadata_digest(attributes: Mapping[str, Any], layouts: Iterable[ArrayLayout]) -> str:
    """SHA-256 of what must never change: the attributes without provenance, the arrays' documents without rows."""
    stable = {name: attributes[name] for name in sorted(attributes) if name != "provenance"}
    documents = {layout.name: layout.document(0) for layout in layouts}
    canonical = json.dumps([stable, documents], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def to_json(document: dict[str, Any]) -> bytes:
    """JSON as it is written to disk."""
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def chunk_file(store: Path, layout: ArrayLayout, chunk: int) -> Path:
    """Path of a chunk."""
    return store / chunk_name(layout, chunk)


def chunk_name(layout: ArrayLayout, chunk: int) -> str:
    """A chunk's place in the group: ``cls/c/5/0``."""
    return f"{layout.name}/c/{chunk}" + "/0" * len(layout.row_shape)


def encode_chunk(layout: ArrayLayout, rows: NDArray[Any]) -> bytes | memoryview:
    """A whole chunk from at most ``chunk_rows`` rows; the rest is fill value (NaN or 0)."""
    if layout.sharded:
        return _shard(layout, rows)
    size = layout.chunk_rows * layout.row_bytes
    content = np.empty(size + 4, np.uint8)
    chunk = content[:size].view(np.dtype(layout.dtype).newbyteorder("<")).reshape(layout.chunk_rows, *layout.row_shape)
    chunk[: len(rows)] = rows
    chunk[len(rows) :] = np.nan if layout.dtype.startswith("float") else 0
    content[size:] = np.frombuffer(struct.pack("<I", crc32c.crc32c(content[:size])), np.uint8)
    return content.data


def _shard(layout: ArrayLayout, rows: NDArray[Any]) -> bytes:
    """One chunk a row with its crc32c, in order, then the index of (offset, length) pairs with its own."""
    stored = np.ascontiguousarray(rows, np.dtype(layout.dtype).newbyteorder("<"))
    index = np.full((layout.chunk_rows, 2), ABSENT, "<u8")
    index[: len(rows), 0] = np.arange(len(rows)) * layout.entry_bytes
    index[: len(rows), 1] = layout.entry_bytes
    return b"".join([*(with_checksum(row.tobytes()) for row in stored), with_checksum(index.tobytes())])


def encode_strings(layout: ArrayLayout, values: list[str]) -> bytes:
    """A whole chunk of strings: count, then length and UTF-8 bytes of each, all lengths uint32."""
    padded = values + [""] * (layout.chunk_rows - len(values))
    parts = [struct.pack("<I", len(padded))]
    for value in padded:
        encoded = value.encode()
        parts += [struct.pack("<I", len(encoded)), encoded]
    return with_checksum(b"".join(parts))


def with_checksum(content: bytes) -> bytes:
    """Content followed by its crc32c as uint32, little-endian (the crc32c codec)."""
    return content + struct.pack("<I", crc32c.crc32c(content))


def decode_chunk(path: Path, layout: ArrayLayout) -> NDArray[Any]:
    """Read one numeric chunk and check its crc32c.

    Returns
    -------
    ndarray
        (chunk_rows, *row_shape), not writable.

    Raises
    ------
    StoreCorruptError
        If the file is missing, has another length, or fails its checksum.
    """
    body = _checked_body(path)
    expected = layout.chunk_rows * layout.row_bytes
    if len(body) != expected:
        raise StoreCorruptError(f"a committed chunk has {len(body)} bytes, expected {expected}: {path}", remedy=_REMEDY)
    flat = np.frombuffer(body, dtype=np.dtype(layout.dtype).newbyteorder("<"))
    return flat.reshape(layout.chunk_rows, *layout.row_shape)


def decode_strings(path: Path, layout: ArrayLayout) -> list[str]:
    """Read one chunk of strings and check its crc32c; the inverse of :func:`encode_strings`.

    Raises
    ------
    StoreCorruptError
        If the file is missing or damaged.
    """
    body = bytes(_checked_body(path))
    values, position = [], 4
    try:
        for _ in range(layout.chunk_rows):
            (length,) = struct.unpack_from("<I", body, position)
            values.append(body[position + 4 : position + 4 + length].decode())
            position += 4 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise StoreCorruptError(f"a committed chunk holds no strings: {path} ({error})", remedy=_REMEDY) from error
    return values


def _checked_body(path: Path) -> memoryview:
    """The bytes of a chunk without the crc32c that they were checked against."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreCorruptError(f"a committed chunk is missing: {path}", remedy=_REMEDY) from None
    # The crc32c of a text followed by its own crc32c is a constant.
    if len(content) < 4 or crc32c.crc32c(content) != _RESIDUE:
        raise StoreCorruptError(f"a committed chunk of {len(content)} bytes fails its checksum: {path}", remedy=_REMEDY)
    return memoryview(content)[:-4]


ABSENT = 2**64 - 1
"""Offset and length, in the index of a shard, of a chunk that is not there."""

_RESIDUE = crc32c.crc32c(bytes(4))
_REMEDY = "The disk or a copy damaged the store. Restore it, or remove its folder and extract again."

"""A store written from docs/format.md alone, with numpy and json: ``verify`` and every reader take it."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from featcache.store import FeatureStore, verify_store

ROWS, CHUNK_ROWS, WIDTH = 70, 64, 6
SPEC = {
    "model": "other program", "weights": "a" * 64, "precision": "fp32", "runtime": "other", "dtype": "float32",
    "preprocess": {"crop": 8}, "decoders": {"raster": 1}, "encoder": 1,
}  # fmt: skip
TABLE = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ (0x82F63B78 if _value & 1 else 0)
    TABLE[_byte] = _value


def crc32c(content: bytes) -> bytes:
    """Castagnoli's CRC, bit by bit as RFC 3720 defines it; little-endian."""
    value = 0xFFFFFFFF
    for byte in content:
        value = TABLE[(value ^ byte) & 255] ^ (value >> 8)
    return struct.pack("<I", value ^ 0xFFFFFFFF)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def document(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def sealed(value: dict[str, Any], checksum: str) -> bytes:
    return json.dumps({**value, "sha256": checksum}, indent=1, sort_keys=True).encode()


def group(attributes: dict[str, Any]) -> bytes:
    return document({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def array(rows: int, shape: list[int], dtype: str, codec: dict[str, Any], fill: Any) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, *shape],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK_ROWS, *shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [codec, {"name": "crc32c"}],
        "attributes": {},
        "storage_transformers": [],
    }


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    key = sha256(canonical(SPEC))
    path = tmp_path / "home" / "theirs" / f"other_program-{key[:8]}.zarr"
    features = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype("<f4")
    digests = np.random.default_rng(1).integers(1, 255, (ROWS, 16), np.uint8)
    ids = [f"bild {row} ä" for row in range(ROWS)]
    shapes: dict[str, list[int]] = {"digests": [16], "ids": [], "cls": [WIDTH]}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    kinds: dict[str, tuple[str, dict[str, Any], Any]] = {
        "digests": ("uint8", {"name": "bytes"}, 0),
        "ids": ("string", {"name": "vlen-utf8", "configuration": {}}, ""),
        "cls": ("float32", little, "NaN"),
    }
    attributes = {
        "format_version": 1, "key": key, "spec": SPEC, "families": {"vectors": shapes},
        "chunk_rows": CHUNK_ROWS, "provenance": {"program": "theirs"},
    }  # fmt: skip
    files = {"zarr.json": group({"featcache": attributes}), "segments/group.json": group({"featcache": attributes})}
    files["segments/zarr.json"] = group({})
    for name, shape in shapes.items():
        files[f"{name}/zarr.json"] = document(array(ROWS, shape, *kinds[name]))
    stable = {name: value for name, value in attributes.items() if name != "provenance"}
    metadata = sha256(canonical([stable, {name: array(0, shape, *kinds[name]) for name, shape in shapes.items()}]))
    for number in range(2):
        part = slice(number * CHUNK_ROWS, min(ROWS, (number + 1) * CHUNK_ROWS))
        count = part.stop - part.start
        rows = np.full((CHUNK_ROWS, WIDTH), np.nan, "<f4")
        rows[:count] = features[part]
        which = np.zeros((CHUNK_ROWS, 16), np.uint8)
        which[:count] = digests[part]
        texts = [text.encode() for text in ids[part] + [""] * (CHUNK_ROWS - count)]
        strings = struct.pack("<I", CHUNK_ROWS) + b"".join(struct.pack("<I", len(text)) + text for text in texts)
        chunks = {f"digests/c/{number}/0": which.tobytes(), f"ids/c/{number}": strings}
        chunks |= {f"cls/c/{number}/0": rows.tobytes()}
        chunks = {name: content + crc32c(content) for name, content in chunks.items()}
        record = {
            "family": "vectors", "segment": number, "rows": count,
            "digests": base64.b64encode(digests[part].tobytes()).decode(),
            "files": {name: sha256(content) for name, content in chunks.items()}, "metadata": metadata,
        }  # fmt: skip
        files |= chunks
        files[f"segments/vectors-{number:08}.json"] = sealed(record, sha256(canonical(record)))
    listed = {name: sha256(files[name]) for name in files if name == "zarr.json" or name.startswith("segments/")}
    manifest = {"files": listed, "next_segment": 2}
    files["segments/manifest.json"] = sealed(manifest, sha256(json.dumps(manifest, sort_keys=True).encode()))
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path, features


def test_a_store_of_another_program_is_intact_and_read(written: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, features = written
    assert verify_store(path) == []
    store = FeatureStore(path)
    np.testing.assert_array_equal(store["cls"][:], features)
    assert store.samples["id"][69] == "bild 69 ä"
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["cls"][:], features)


def test_a_flip_in_it_is_found_like_in_our_own(written: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, _ = written
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        assert verify_store(path), file.relative_to(path)
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    assert verify_store(path) == []

"""The store against plain zarr, h5py, tensorstore and a raw file: append, read, gather, open.

All in one run: in each repeat every peer takes its turn, so that a noisy minute hits all of them; medians.

    python benchmarks/store.py                          # 112120 x 1024 float16, about 2 minutes
    python benchmarks/store.py --rows 30000 --repeats 3

What is compared. Every peer gets the same numbers in batches of 256 rows into an array of known length (the fastest
way for each), and no peer but featcache makes them durable: ``append`` is what the library does by itself (featcache:
crc32c, SHA-256, fsync and rename of every file, and the record), ``+ fsync`` adds one fsync of every file at the end.
Reads come from the page cache, into a new array each time, three times as often as appends. Gathers take the same
sorted, distinct rows everywhere (h5py takes no others).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

# Before numpy is loaded; for all peers alike.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np
import pandas as pd
import zarr

from featcache.store import FeatureStore, Key, SampleTable, open_writer, row_digest, samples, write_samples

BATCH = 256
READS_A_REPEAT = 3
Array = np.ndarray[Any, Any]


@dataclass
class Peer:
    """One way to keep the array."""

    name: str
    append: Callable[[Path, Array], object] | None
    """Writes everything below a folder; None for a reader of another peer's files."""
    open: Callable[[Path], Any] | None
    """Gives a handle that the readers take."""
    read: Callable[[Any], Array] | None
    gather: Callable[[Any, Array], Array] | None
    files_of: str = ""
    """The peer whose files it reads, if not its own."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Measured times by step."""

    def median(self, step: str) -> float | None:
        """Seconds; None where the peer does not do that."""
        return statistics.median(self.seconds[step]) if self.seconds.get(step) else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Append, read, gather and open against plain stores.")
    parser.add_argument("--rows", type=int, default=112_120)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    options = parser.parse_args()
    data = np.random.default_rng(0).standard_normal((options.rows, options.width), dtype=np.float32).astype(np.float16)
    rows = np.sort(np.random.default_rng(1).choice(options.rows, max(1, options.rows // 100), replace=False))
    digests = [row_digest(bytes(16), str(row)) for row in range(options.rows)]
    peers = all_peers(digests)
    print(describe_machine())
    print(f"{options.rows} x {options.width} float16, {data.nbytes / 1e6:.0f} MB, {options.repeats} repeats, medians\n")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        home = Path(folder)
        for _ in range(options.repeats):
            measure_appends(peers, home, data)
        for _ in range(READS_A_REPEAT * options.repeats):
            measure_reads(peers, home, data, rows)
        print_table(peers, data.nbytes, len(rows))
        print_opening(home / "featcache", options.repeats)


def all_peers(digests: list[bytes]) -> list[Peer]:
    """The peers that are installed, featcache first."""

    def append(folder: Path, data: Array) -> None:
        append_featcache(folder, data, digests)

    def append_without_fsync(folder: Path, data: Array) -> None:
        with mock.patch("os.fsync"):
            append_featcache(folder, data, digests)

    peers = [
        Peer("featcache", append, open_featcache, lambda array: array[:], lambda array, rows: array[rows]),
        Peer("featcache, os.fsync patched out", append_without_fsync, None, None, None),
        Peer("zarr-python on featcache's files", None, open_own_by_zarr, *ZARR_READERS, files_of="featcache"),
        Peer("zarr v3, chunk 256", lambda *args: append_zarr(*args, compressors=None), open_zarr, *ZARR_READERS),
        Peer("zarr v3, chunk 256, default zstd", append_zarr, open_zarr, *ZARR_READERS),
    ]
    with contextlib.suppress(ImportError):
        peers += h5py_peers()
    with contextlib.suppress(ImportError):
        peers.append(tensorstore_peer())
    return [*peers, Peer("raw file", append_raw, open_raw, read_raw, lambda mapped, rows: mapped[rows])]


def append_featcache(folder: Path, data: Array, digests: list[bytes]) -> None:
    key = benchmark_key()
    names = [f"image-{row:07}.png" for row in range(len(data))]
    with open_writer(
        folder, key, arrays={"cls": data.shape[1:]}, planned_rows=len(data), provenance={"by": "benchmark"}
    ) as writer:
        for number in writer.reserve(len(data)):
            part = slice(number * writer.chunk_rows, min(len(data), (number + 1) * writer.chunk_rows))
            known = np.frombuffer(b"".join(digests[part]), np.uint8).reshape(-1, 16)
            writer.commit(number, known, names[part], {"cls": data[part]})
    frame = pd.DataFrame({"id": names, "digest": [digest.hex() for digest in digests], "path": names})
    frame["split"] = np.where(np.arange(len(names)) % 5 == 0, "test", "train")
    frame["finding"] = (np.arange(len(names)) % 7 == 0).astype(int)
    write_samples(folder, SampleTable("table", frame, (), "table", ()))


def benchmark_key() -> Key:
    return Key(
        model="benchmark",
        weights="0" * 64,
        precision="fp32",
        runtime="torch",
        dtype="float16",
        preprocess={},
        decoders={},
        encoder=1,
    )


def open_featcache(folder: Path) -> Any:
    return FeatureStore(folder / benchmark_key().store_name)["cls"]


def open_own_by_zarr(folder: Path) -> Any:
    return zarr.open_group(folder / benchmark_key().store_name, mode="r")["cls"]


def append_zarr(folder: Path, data: Array, **compression: Any) -> None:
    group = zarr.open_group(folder / "features.zarr", mode="w")
    array = group.create_array("cls", shape=data.shape, chunks=(BATCH, data.shape[1]), dtype=data.dtype, **compression)
    for first in range(0, len(data), BATCH):
        array[first : first + BATCH] = data[first : first + BATCH]


def open_zarr(folder: Path) -> Any:
    return zarr.open_group(folder / "features.zarr", mode="r")["cls"]


ZARR_READERS: tuple[Callable[[Any], Array], Callable[[Any, Array], Array]] = (
    lambda array: array[:],
    lambda array, rows: array.oindex[rows],
)


def h5py_peers() -> list[Peer]:
    import h5py

    def append(folder: Path, data: Array, chunks: tuple[int, int] | None) -> None:
        with h5py.File(folder / "features.h5", "w") as file:
            array = file.create_dataset("cls", shape=data.shape, dtype=data.dtype, chunks=chunks)
            for first in range(0, len(data), BATCH):
                array[first : first + BATCH] = data[first : first + BATCH]

    def chunked(folder: Path, data: Array) -> None:
        append(folder, data, (BATCH, data.shape[1]))

    def contiguous(folder: Path, data: Array) -> None:
        append(folder, data, None)

    def open_file(folder: Path) -> Any:
        return h5py.File(folder / "features.h5")["cls"]

    readers: tuple[Callable[[Any], Array], Callable[[Any, Array], Array]] = (
        lambda array: array[:],
        lambda array, rows: array[rows],
    )
    return [
        Peer("h5py, chunk 256", chunked, open_file, *readers),
        Peer("h5py, contiguous", contiguous, open_file, *readers),
    ]


def tensorstore_peer() -> Peer:
    import tensorstore

    def specification(folder: Path) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / "features.zarr")}}

    def append(folder: Path, data: Array) -> None:
        metadata = {
            "shape": list(data.shape),
            "data_type": "float16",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [BATCH, data.shape[1]]}},
        }
        array = tensorstore.open({**specification(folder), "metadata": metadata, "create": True}).result()
        for first in range(0, len(data), BATCH):
            array[first : min(len(data), first + BATCH)].write(data[first : first + BATCH]).result()

    return Peer(
        "tensorstore, chunk 256",
        append,
        lambda folder: tensorstore.open(specification(folder)).result(),
        lambda array: np.asarray(array.read().result()),
        lambda array, rows: np.asarray(array.oindex[rows].read().result()),
    )


def append_raw(folder: Path, data: Array) -> None:
    with (folder / "features.bin").open("wb", buffering=0) as file:
        for first in range(0, len(data), BATCH):
            file.write(data[first : first + BATCH].data)
    np.save(folder / "shape.npy", data.shape)


def open_raw(folder: Path) -> Any:
    shape = tuple(np.load(folder / "shape.npy").tolist())
    return np.memmap(folder / "features.bin", np.float16, "r", shape=shape)


def read_raw(mapped: Any) -> Array:
    return np.fromfile(mapped.filename, mapped.dtype).reshape(mapped.shape)


@contextlib.contextmanager
def timed(peer: Peer, step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    peer.seconds.setdefault(step, []).append(time.perf_counter() - start)


def measure_appends(peers: list[Peer], home: Path, data: Array) -> None:
    """One turn of each peer, into an empty folder; the files of the last turn stay."""
    for peer in peers:
        if peer.append is None:
            continue
        folder = home / peer.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with timed(peer, "append"):
            peer.append(folder, data)
        with timed(peer, "flush"):
            flush(folder)


def flush(folder: Path) -> None:
    """Force every file to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def measure_reads(peers: list[Peer], home: Path, data: Array, rows: Array) -> None:
    """One turn of each peer; what it gives is compared with the data."""
    for peer in peers:
        if peer.open is None or peer.read is None or peer.gather is None:
            continue
        with timed(peer, "open"):
            handle = peer.open(home / (peer.files_of or peer.name))
            assert handle.shape == data.shape
        with timed(peer, "read"):
            everything = peer.read(handle)
        assert np.array_equal(everything[: len(data)], data), peer.name
        del everything
        with timed(peer, "gather"):
            some = peer.gather(handle, rows)
        assert np.array_equal(some, data[rows]), peer.name


def print_table(peers: list[Peer], size: int, gathered: int) -> None:
    """Rates, and in brackets the ratio to plain zarr (chunk 256) and to h5py (chunk 256)."""
    by_name = {peer.name: peer for peer in peers}
    references = [by_name.get(name) for name in ("zarr v3, chunk 256", "h5py, chunk 256")]
    print("| | append MB/s | + fsync MB/s | read MB/s | gather rows/s | open ms |\n|---|---|---|---|---|---|")
    for peer in peers:
        cells = [
            cell(peer, references, ("append",), size / 1e6),
            cell(peer, references, ("append", "flush"), size / 1e6),
            cell(peer, references, ("read",), size / 1e6),
            cell(peer, references, ("gather",), gathered),
        ]
        opened = peer.median("open")
        print(f"| {peer.name} | {' | '.join(cells)} | {'' if opened is None else f'{1000 * opened:.1f}'} |")
    print("\nIn brackets: times zarr v3 chunk 256 / times h5py chunk 256. Page cache warm for reads.\n")


def cell(peer: Peer, references: list[Peer | None], steps: tuple[str, ...], amount: float) -> str:
    def rate(one: Peer | None) -> float | None:
        seconds = [None if one is None else one.median(step) for step in steps]
        return None if None in seconds else amount / sum(filter(None, seconds))

    own = rate(peer)
    if own is None:
        return ""
    ratios = [None if (other := rate(reference)) is None else own / other for reference in references]
    return f"{own:,.0f} ({' / '.join('-' if ratio is None else f'{ratio:.2g}' for ratio in ratios)})"


def print_opening(folder: Path, repeats: int) -> None:
    """What opening a store costs after the imports, and how much of that is pyarrow and pandas."""
    steps = Peer("", None, None, None, None)
    original = samples.read_samples

    def read_samples(where: Path) -> SampleTable | None:
        with timed(steps, "table"):
            return original(where)

    with mock.patch("featcache.store.feature_store.read_samples", read_samples):
        for _ in range(max(9, repeats)):
            with timed(steps, "all"):
                with timed(steps, "records"):
                    store = FeatureStore(folder / benchmark_key().store_name)
                assert len(store) == len(store.samples)
    whole, table, records = (1000 * (steps.median(step) or 0) for step in ("all", "table", "records"))
    print(f"FeatureStore(path), len(store), store.samples of {len(store)} rows: {whole:.0f} ms")
    print(f"- samples.parquet, by pyarrow and pandas: {table:.0f} ms")
    print(f"- metadata and commit records: {records:.0f} ms")
    print(f"- digests to rows, and the view: {whole - table - records:.0f} ms")


def describe_machine() -> str:
    packages = []
    for name in ("zarr", "h5py", "tensorstore", "numpy", "pyarrow", "crc32c"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages.append(f"{name} {importlib.metadata.version(name)}")
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    versions = f"Python {platform.python_version()}, {', '.join(packages)}"
    return f"{processor}, {os.cpu_count()} cores, {sys.platform}{load}; {versions}"


if __name__ == "__main__":
    main()

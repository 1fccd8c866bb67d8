"""The fast PNG path against Pillow, bit by bit, and what it refuses."""

from __future__ import annotations

import io
import itertools
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.errors import ImageError
from featcache.imaging import png, raster, read

RNG = np.random.default_rng(5)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def grey_png(rows: bytes, height: int, width: int, *, pieces: int = 1, extra: bytes = b"") -> bytes:
    """A file around filtered rows, whatever they hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(rows)
    cuts = [len(packed) * piece // pieces for piece in range(pieces + 1)]
    data = b"".join(chunk(b"IDAT", packed[a:b]) for a, b in itertools.pairwise(cuts))
    return png.SIGNATURE + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the compiled loop from the first image on, and never Pillow."""

    def refuse(*_: object) -> None:
        raise AssertionError("Pillow was used")

    monkeypatch.setattr(png, "WORTH_PIXELS", 0)
    monkeypatch.setattr(raster, "_with_pillow", refuse)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (33, 31), (64, 128)])
@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4], [4, 3]], ids=str)
def test_every_filter_gives_what_pillow_gives(tmp_path: Path, shape: tuple[int, int], kinds: list[int]) -> None:
    height, width = shape
    rows = RNG.integers(0, 256, (height, width + 1)).astype(np.uint8)
    rows[:, 0] = np.resize(kinds, height)
    content = grey_png(rows.tobytes(), height, width, pieces=min(3, width))
    (tmp_path / "a.png").write_bytes(content)
    image = read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array, np.asarray(Image.open(io.BytesIO(content))))
    assert image.array.dtype == np.uint8
    assert image.value_range == (0, 255)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_what_pillow_writes_comes_back(tmp_path: Path, level: int) -> None:
    smooth = np.add.outer(np.arange(200), np.arange(150)) / 2 + RNG.normal(0, 3, (200, 150))
    pixels = smooth.clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", compress_level=level, dpi=(300, 300))
    np.testing.assert_array_equal(read(tmp_path / "a.png").array, pixels)


GOOD = grey_png(np.zeros((8, 9), np.uint8).tobytes(), 8, 8)


def with_data(packed: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


PACKED = zlib.compress(np.zeros((8, 9), np.uint8).tobytes())
BAD = {
    "no end chunk": (GOOD[:-12], "truncated"),
    "cut in the pixels": (GOOD[:45], "truncated"),
    "signature only": (png.SIGNATURE, "truncated"),
    "flipped bit": (GOOD[:43] + bytes([GOOD[43] ^ 4]) + GOOD[44:], "checksum"),
    "flipped header": (GOOD[:18] + bytes([GOOD[18] ^ 4]) + GOOD[19:], "checksum"),
    "wrong Adler-32": (with_data(PACKED[:-1] + bytes([PACKED[-1] ^ 1])), "compressed pixels"),
    "too few pixels": (with_data(zlib.compress(bytes(40))), "truncated"),
    "unknown filter": (with_data(zlib.compress(bytes([7] * 72))), "filter"),
    "no pixels": (png.SIGNATURE + GOOD[8:33] + chunk(b"IEND", b""), "no pixels"),
}


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("name", BAD)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read(tmp_path / "a.png")


def test_damage_is_noticed_on_the_way_through_pillow_too(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match="checksum"):
        read(tmp_path / "a.png")


@pytest.mark.usefixtures("fast")
def test_more_pixels_than_the_header_promises_are_never_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(with_data(zlib.compress(bytes(50_000_000))))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from featcache.imaging import png, read\n"
        "png.WORTH_PIXELS = 0\n"
        "read(Path(sys.argv[1])); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read(Path(sys.argv[2])); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    (tmp_path / "good.png").write_bytes(GOOD)
    command = [sys.executable, "-c", code, str(tmp_path / "good.png"), str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # KiB


def test_a_picture_of_50000_squared_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(grey_png(bytes(1000), 50_000, 50_000))
    with pytest.raises(ImageError, match=r"50000 x 50000 pixels are more than the limit"):
        read(tmp_path / "bomb.png")


def test_an_orientation_sends_the_file_to_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "WORTH_PIXELS", 0)
    pixels = RNG.integers(0, 256, (8, 5), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "a.png").array, np.rot90(pixels, -1))


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bit_colour_stays_sixteen_bit(tmp_path: Path, channels: int, orientation: int) -> None:
    pixels = RNG.integers(0, 65536, (6, 5, channels)).astype(np.uint16)
    colour = {2: 4, 3: 2, 4: 6}[channels]
    rows = np.hstack([np.zeros((6, 1), np.uint8), pixels.astype(">u2").reshape(6, -1).view(np.uint8)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, colour, 0, 0, 0))
    content += chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + chunk(b"IDAT", zlib.compress(rows.tobytes()))
    (tmp_path / "a.png").write_bytes(content + chunk(b"IEND", b""))
    eight = Image.fromarray((pixels[..., 0] >> 8).astype(np.uint8))
    eight.save(tmp_path / "b.png", exif=exif)
    array = read(tmp_path / "a.png").array
    assert array.dtype == np.uint16
    assert array.ndim == (2 if channels == 2 else 3)
    first = array if channels == 2 else array[..., 0]
    np.testing.assert_array_equal(first >> 8, read(tmp_path / "b.png").array)  # turned by Pillow
    if orientation == 1:
        np.testing.assert_array_equal(array, pixels[..., 0] if channels == 2 else pixels[..., :3])


def test_a_jpeg_that_is_called_png_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    assert read(tmp_path / "a.png").array.shape == (4, 4)


def test_one_image_does_not_load_the_compiler(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD)
    code = (
        "import sys; from pathlib import Path; from featcache.imaging import read\n"
        "read(Path(sys.argv[1])); print('numba' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"

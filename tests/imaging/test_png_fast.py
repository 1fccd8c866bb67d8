"""The fast PNG path against Pillow and against the specification's formulas; damage; who pays for the compiler."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from featcache.errors import ImageError
from featcache.imaging import png as fast
from featcache.imaging import read

RNG = np.random.default_rng(0)
SMOOTH = (np.add.outer(np.arange(40) * 3, np.arange(57) * 2) + RNG.integers(0, 9, (40, 57))).astype(np.uint8)
NOISE = RNG.integers(0, 256, (40, 57), dtype=np.uint8)


@pytest.fixture(autouse=True)
def compiled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "WORTH_PIXELS", -1)


def filtered(pixels: np.ndarray, kinds: list[int]) -> bytes:
    """The rows as the PNG specification, section 9, filters them: written from its formulas, in plain Python."""
    height, width = pixels.shape
    rows = b""
    for y in range(height):
        kind = kinds[y % len(kinds)]
        row = [kind]
        for x in range(width):
            a = int(pixels[y, x - 1]) if x else 0
            b = int(pixels[y - 1, x]) if y else 0
            c = int(pixels[y - 1, x - 1]) if x and y else 0
            distances = [abs(b - c), abs(a - c), abs(a + b - 2 * c)]
            paeth = (a, b, c)[distances.index(min(distances))]
            row.append((int(pixels[y, x]) - (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
        rows += bytes(row)
    return rows


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    pixels: np.ndarray, stream: bytes, *, before: bytes = b"", depth: bytes = b"\x08\0\0\0\0", pieces: int = 1
) -> bytes:
    height, width = pixels.shape[:2]
    size = -(-len(stream) // pieces)
    data = b"".join(chunk(b"IDAT", stream[at : at + size]) for at in range(0, len(stream), size))
    header = chunk(b"IHDR", struct.pack(">II", width, height) + depth)
    return fast.SIGNATURE + header + before + data + chunk(b"IEND", b"")


def fast_pixels(content: bytes) -> np.ndarray | None:
    chunks = fast.parse(content)
    return fast.decode_grey(chunks) if fast.is_plain_grey(chunks) else None


def pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [4, 3, 2, 1, 0], [3, 4], [1, 4, 4, 2]], ids=str)
@pytest.mark.parametrize("pixels", [SMOOTH, NOISE, NOISE[:1], NOISE[:, :1], NOISE[:1, :1]], ids=lambda a: str(a.shape))
def test_every_filter_gives_the_pixels_of_pillow(pixels: np.ndarray, kinds: list[int]) -> None:
    content = png(pixels, zlib.compress(filtered(pixels, kinds)), pieces=3)
    found = fast_pixels(content)
    assert found is not None
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(found, pillow(content))


def test_paeth_agrees_for_every_order_of_its_neighbours() -> None:
    values = np.array([0, 1, 2, 3, 84, 85, 86, 127, 128, 129, 170, 254, 255], np.uint8)
    corner, up, left = (axis.ravel() for axis in np.meshgrid(values, values, values, indexing="ij"))
    pixels = np.zeros((2, 3 * len(corner)), np.uint8)  # in threes: corner and left, then up and the pixel itself
    pixels[0, 0::3], pixels[0, 1::3], pixels[1, 0::3], pixels[1, 1::3] = corner, up, left, NOISE.ravel()[: len(corner)]
    content = png(pixels, zlib.compress(filtered(pixels, [0, 4])))
    np.testing.assert_array_equal(pillow(content), pixels)
    np.testing.assert_array_equal(fast_pixels(content), pixels)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_files_that_pillow_wrote_are_read_by_the_fast_path(tmp_path: Path, level: int) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.png", compress_level=level)
    np.testing.assert_array_equal(fast_pixels((tmp_path / "a.png").read_bytes()), SMOOTH)
    image = read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array, SMOOTH)
    assert (image.kind, image.value_range, image.array.dtype) == ("plane", (0, 255), np.uint8)


@pytest.mark.parametrize("mode", ["1", "L16", "LA", "P", "RGB", "RGBA", "interlaced", "4 bits"])
def test_other_kinds_are_left_to_pillow(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    if mode == "L16":
        Image.fromarray(SMOOTH.astype(np.uint16) * 100).save(path)
    elif mode == "4 bits":
        stream = zlib.compress(b"".join(b"\0" + bytes(row) for row in NOISE[:, :20]))
        path.write_bytes(png(NOISE[:, :40], stream, depth=b"\x04\0\0\0\0"))
    elif mode == "interlaced":
        # Adam7 of one pixel: its only pass is the first.
        path.write_bytes(png(NOISE[:1, :1], zlib.compress(b"\0\x07"), depth=b"\x08\0\0\0\x01"))
    else:
        Image.fromarray(SMOOTH).convert(mode).save(path)
    assert fast_pixels(path.read_bytes()) is None
    expected = pillow(path.read_bytes())
    if mode in ("1", "P", "LA", "RGBA"):
        picture = Image.open(path)
        expected = np.asarray(picture.convert({"1": "L", "LA": "L"}.get(mode, "RGB")))
    np.testing.assert_array_equal(read(path).array, expected)


@pytest.mark.parametrize("where", ["eXIf", "text", "xmp"])
def test_an_orientation_is_applied_wherever_it_is_written(tmp_path: Path, where: str) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    info = PngImagePlugin.PngInfo()
    if where == "text":
        block = exif.tobytes()
        info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    elif where == "xmp":
        about = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        about += (
            '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
        )
        info.add_itxt("XML:com.adobe.xmp", about)
    Image.fromarray(SMOOTH).save(path, pnginfo=info, **({"exif": exif} if where == "eXIf" else {}))
    np.testing.assert_array_equal(read(path).array, np.rot90(SMOOTH, -1))


def test_other_text_does_not_slow_a_file_down() -> None:
    before = chunk(b"tEXt", b"Software\0scanner") + chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"tRNS", b"\0\7")
    content = png(SMOOTH, zlib.compress(filtered(SMOOTH, [1])), before=before)
    np.testing.assert_array_equal(fast_pixels(content), SMOOTH)
    np.testing.assert_array_equal(pillow(content), SMOOTH)


@pytest.mark.parametrize("compiled", [True, False], ids=["fast", "pillow"])
@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_a_cut_file_is_an_error_wherever_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool, colour: bool
) -> None:
    monkeypatch.setattr(fast, "decode_grey", fast.decode_grey if compiled else lambda _: None)
    pixels = np.dstack([SMOOTH] * 3) if colour else SMOOTH
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    content = png(pixels, zlib.compress(rows), depth=b"\x08\2\0\0\0" if colour else b"\x08\0\0\0\0", pieces=4)
    path = tmp_path / "a.png"
    end = len(content) - 12
    for kept in {*range(9, end, 41), content.index(b"IDAT") - 4, content.rindex(b"IDAT") - 4, end - 1, end, end + 11}:
        path.write_bytes(content[:kept])
        with pytest.raises(ImageError, match="truncated") as caught:
            read(path)
        assert caught.value.remedy
    path.write_bytes(content + b"garbage behind the end")
    np.testing.assert_array_equal(read(path).array, pixels)


@pytest.mark.parametrize("compiled", [True, False], ids=["fast", "pillow"])
def test_a_flipped_bit_is_found_by_the_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(fast, "decode_grey", fast.decode_grey if compiled else lambda _: None)
    content = png(NOISE, zlib.compress(filtered(NOISE, [0]), 0))
    for at in (17, content.index(b"IDAT") + 300, len(content) - 14):
        damaged = bytearray(content)
        damaged[at] ^= 4
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(ImageError, match="checksum"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("odd", ["too many rows", "no adler", "bad filter", "too few rows"])
def test_an_odd_stream_is_what_pillow_makes_of_it(tmp_path: Path, odd: str) -> None:
    rows = filtered(NOISE, [0])
    stream = {
        "too many rows": zlib.compress(rows + rows[:100]),
        "no adler": zlib.compress(rows)[:-4] + b"\0\0\0\0",
        "bad filter": zlib.compress(b"\x07" + rows[1:]),
        "too few rows": zlib.compress(rows[:-60]),
    }[odd]
    content = png(NOISE, stream)
    assert odd == "too many rows" or fast_pixels(content) is None
    (tmp_path / "a.png").write_bytes(content)
    try:
        expected = pillow(content)
    except (OSError, SyntaxError):
        with pytest.raises(ImageError, match="damaged"):
            read(tmp_path / "a.png")
    else:
        np.testing.assert_array_equal(read(tmp_path / "a.png").array, expected)


def test_a_bomb_is_refused_by_its_header_alone(tmp_path: Path) -> None:
    giant = np.broadcast_to(np.uint8(0), (50_000, 50_000))
    (tmp_path / "bomb.png").write_bytes(png(giant, zlib.compress(bytes(1000))))
    with pytest.raises(ImageError, match="50000 x 50000 pixels are more than the limit of 200,000,000") as caught:
        read(tmp_path / "bomb.png")
    assert caught.value.remedy


def test_a_stream_that_inflates_to_more_than_the_picture_is_not_inflated() -> None:
    content = png(NOISE, zlib.compress(bytes(50_000_000)))
    assert fast_pixels(content) is not None  # compiles
    import tracemalloc

    tracemalloc.start()
    try:
        np.testing.assert_array_equal(fast_pixels(content), pillow(content))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_content_counts_and_not_the_extension(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.png")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(read(tmp_path / "a.jpg").array, SMOOTH)
    Image.fromarray(SMOOTH).save(tmp_path / "b.bmp")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.bmp").read_bytes())
    np.testing.assert_array_equal(read(tmp_path / "b.png").array, SMOOTH)


def test_a_few_images_do_not_load_the_compiler(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.png")
    code = (
        "import sys; from pathlib import Path; from featcache.imaging import read\n"
        "for _ in range(3): read(Path(sys.argv[1]))\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_compiler_loads_when_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "WORTH_PIXELS", 2.5 * SMOOTH.size)
    monkeypatch.setattr(fast, "_state", {"pixels": 0, "unfilter": None})
    content = png(SMOOTH, zlib.compress(filtered(SMOOTH, [1])))
    assert [fast_pixels(content) is not None for _ in range(4)] == [False, False, True, True]


def test_threads_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_state", {"pixels": 0, "unfilter": None})
    content = png(NOISE, zlib.compress(filtered(NOISE, [4, 3, 1])))
    found: list[np.ndarray | None] = []
    threads = [threading.Thread(target=lambda: found.extend(fast_pixels(content) for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert found[-1] is not None
    for pixels in found:  # None: left to Pillow while one thread compiles
        assert pixels is None or np.array_equal(pixels, NOISE)

"""A sheet of what a model will see, as one PNG."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from featcache.errors import ConfigurationError
from featcache.records import PreviewTile

__all__ = ["draw_preview"]

_MARGIN = 8
_LINE = 16
_TITLE = 24
_SMALLEST = 160
"""Pixels of a tile's side, at least: small inputs are shown magnified, each pixel a square."""

_LONGEST = 300
"""Characters of a line that are looked at."""


def draw_preview(tiles: Sequence[PreviewTile], path: Path, *, title: str = "", columns: int | None = None) -> Path:
    """Draw tiles with their ids and labels; a sample that cannot be used shows the reason.

    Parameters
    ----------
    tiles
        What :func:`featcache.extraction.preview` returns, (S, S, 3) uint8 each.
    path
        The PNG to write; its folder is made, and the file is replaced only when it is complete.
    title
        A line above the sheet.
    columns
        Tiles a row; default as square as possible, at most 8.

    Raises
    ------
    ConfigurationError
        If there is no tile.
    """
    if not tiles:
        raise ConfigurationError("there is nothing to draw: no samples")
    columns = min(8, math.ceil(math.sqrt(len(tiles)))) if columns is None else columns
    size = max([len(tile.pixels) for tile in tiles if tile.pixels is not None], default=_SMALLEST)
    side = size * math.ceil(_SMALLEST / size)
    cell = (side + _MARGIN, side + 2 * _LINE + _MARGIN)
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN, rows * cell[1] + _TITLE + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    pen.text((_MARGIN, 6), _shortened(title, sheet.width - 2 * _MARGIN, font), "black", font)
    for place, tile in enumerate(tiles):
        left = _MARGIN + place % columns * cell[0]
        top = _TITLE + place // columns * cell[1]
        if tile.pixels is not None:
            sheet.paste(Image.fromarray(tile.pixels).resize((side, side), Image.Resampling.NEAREST), (left, top))
        else:
            pen.rectangle((left, top, left + side - 1, top + side - 1), fill="#fbe9e7", outline="#b71c1c")
            reason = tile.failure.reason if tile.failure is not None else ""
            pen.multiline_text((left + 6, top + 6), _wrapped(reason, side - 12, font), "#b71c1c", font)
        pen.text((left, top + side + 2), _shortened(tile.id, side, font, keep_end=True), "black", font)
        pen.text((left, top + side + 2 + _LINE), _shortened(tile.label, side, font), "#444444", font)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    sheet.save(partial, format="png")
    partial.replace(path)
    return path


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _shortened(text: str, width: int, font: _Font, *, keep_end: bool = False) -> str:
    """As much of a line as fits: ids differ at their end, labels and titles begin with what matters."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    text = text[-_LONGEST:] if keep_end else text[:_LONGEST]
    while text and font.getlength(text + "…") > width:
        text = text[1:] if keep_end else text[:-1]
    return "…" + text if keep_end else text + "…"


def _wrapped(text: str, width: int, font: _Font) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(_shortened(line, width, font) for line in lines[:8])

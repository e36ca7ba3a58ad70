# SPDX-License-Identifier: MIT
"""Sheets to look at: the original and each setting of a codec side by side, with metrics under each, as papers show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewbits.bench.codecs import Codec
from fewbits.bench.measure import Picture, pixels_of
from fewbits.bench.metrics import METRICS
from fewbits.bench.pool import in_processes, why
from fewbits.files import replacing

TILE_PX: Final = 512  # larger pictures are cut to their middle: reduced ones would hide what is to be seen
GAP_PX: Final = 12
TEXT_PX: Final = 18
COLUMNS: Final = 4


@dataclass(frozen=True)
class _Sheet:
    picture: Picture
    codec: Codec
    captions: tuple[tuple[str, ...], ...]  # of the original, then of each setting
    target: Path


def write_gallery(
    pictures: Sequence[Picture],
    codecs: Sequence[Codec],
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    folder: Path,
    jobs: int,
    show: bool | None = None,
) -> list[str]:
    """Write folder/PICTURE-CODEC.png for each; returns why of those that failed. rows: see measure(), for the captions."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()  # of an earlier run, perhaps with other settings
    by_cell = {(row["image"], row["codec"], row["setting"]): row for row in rows if row["bytes"] is not None}
    sheets = []
    for picture in pictures:
        for codec in codecs:
            found = [by_cell.get((picture.name, codec.name, setting)) for setting in codec.settings]
            if any(row is None for row in found):
                continue  # its row has said why
            captions = [_caption(codec.label, row, names) for row in found if row is not None]
            name = f"{_stem(picture, pictures)}-{codec.name}.png"
            sheets.append(_Sheet(picture, codec, ((picture.name, "original"), *captions), folder / name))
    return [
        f"gallery: {sheet.target.name}: {failure}"
        for sheet, failure in in_processes(_write, sheets, jobs, "gallery", show)
        if failure
    ]


def _stem(picture: Picture, pictures: Sequence[Picture]) -> str:
    """The picture's name as part of a file's; without its extension where no other has the same then."""

    def plain(name: str) -> str:
        return (name.rpartition(".")[0] or name).replace("/", "-")

    alike = [other for other in pictures if plain(other.name) == plain(picture.name)]
    return plain(picture.name) if len(alike) == 1 else picture.name.replace("-", "--").replace("/", "-")


def _caption(label: str, row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    scores = []
    for name in names:
        if row[name] is not None:
            metric = METRICS[name]
            scores.append(f"{metric.label} {metric.axis(row[name]):.2f} {metric.unit}".strip())
    return f"{label} {row['setting']:g}: {row['bpp']:.3f} bpp, {row['bytes']} bytes", *scores


def _write(sheet: _Sheet) -> str:
    """In a worker: the failure, or "" when the sheet is written."""
    try:
        pixels = pixels_of(sheet.picture.path)
        tiles = [pixels]
        tiles += [sheet.codec.decode(sheet.codec.encode(pixels, setting)) for setting in sheet.codec.settings]
        with replacing(sheet.target) as file:
            draw_sheet([middle(tile) for tile in tiles], sheet.captions).save(file, "PNG")
    except Exception as error:
        return why(error)
    return ""


def middle(pixels: np.ndarray) -> np.ndarray:
    """Of a picture (h, w, ...) at most TILE_PX rows and columns."""
    top, left = (max(0, (side - TILE_PX) // 2) for side in pixels.shape[:2])
    return pixels[top : top + TILE_PX, left : left + TILE_PX]


def draw_sheet(tiles: Sequence[np.ndarray], captions: Sequence[Sequence[str]]) -> Image.Image:
    """Pictures uint8 (h, w, 3) of about one size in rows of COLUMNS, the lines of its caption under each."""
    height, width = tiles[0].shape[:2]
    text_px = (TEXT_PX + 4) * max(map(len, captions)) + GAP_PX
    cell_width, cell_height = max(width, 320) + GAP_PX, height + text_px + GAP_PX
    columns = min(COLUMNS, len(tiles))
    size = columns * cell_width + GAP_PX, -(-len(tiles) // columns) * cell_height + GAP_PX
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = GAP_PX + number % columns * cell_width, GAP_PX + number // columns * cell_height
        sheet.paste(Image.fromarray(tile), (left, top))
        for line, text in enumerate(caption):
            draw.text((left, top + height + 6 + line * (TEXT_PX + 4)), text, fill="black", font=font)
    return sheet

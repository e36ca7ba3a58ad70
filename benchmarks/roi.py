# SPDX-License-Identifier: MIT
"""What a region of interest saves, and what it costs: the numbers of docs/roi.md, which this writes.

Of each picture an ellipse in its middle, half as high and wide as the picture, is white in the mask. Beside the file with that
mask are plain ones of both qualities, and two sizes made of theirs: "by area", each with its blocks' share of the picture, and
"by bits", each with its blocks' share of the file, which is what a file with that mask should have. "in" is the ellipse, "out"
what no white block reaches. "line" says whether borders can be seen: the error's gradient across them, over that at the
latent's next borders on both sides; for the plain file, at the same places, it is what the picture itself makes of it.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from fewbits import FewbitsError, load_model
from fewbits.bench.text import table, with_block
from fewbits.codec import Model, inspect
from fewbits.coding.tables import PRECISION
from fewbits.fidelity import psnr_of
from fewbits.installed import DEFAULT_QUALITY, DEFAULT_ROI_DROP
from fewbits.runtime.hyperprior import HyperpriorCodec
from fewbits.runtime.latents import STRIDE
from fewbits.runtime.pipeline import strips_of
from fewbits.runtime.places import PLACE_PX

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "roi.md"
BEGIN, END = "<!-- numbers: written by benchmarks/roi.py -->", "<!-- end of numbers -->"
COLUMNS: Final = ("with ROI", "saved", "by area", "by bits", "in: plain", "ROI", "out: plain", "ROI", "line: plain", "ROI")


class Row(NamedTuple):
    """One picture. area: white blocks' share. Sizes in bytes; PSNR in dB, and lines: of a plain file, and with the mask."""

    area: float
    high: int
    low: int
    roi: int
    by_bits: float
    inside: tuple[float, float]
    outside: tuple[float, float]
    line: tuple[float, float]

    def cells(self) -> list[str]:
        by_area = self.area * self.high + (1 - self.area) * self.low
        ratios = [f"{self.roi / whole - 1:+.1%}" for whole in (by_area, self.by_bits)]
        pairs = [f"{value:.2f}" for pair in (self.inside, self.outside, self.line) for value in pair]
        return [
            f"{self.area:.2f}",
            str(self.high),
            str(self.low),
            str(self.roi),
            f"{1 - self.roi / self.high:.0%}",
            *ratios,
            *pairs,
        ]


def ellipse(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.asarray(np.hypot((rows - height / 2) / (height / 4), (columns - width / 2) / (width / 4)) < 1)


def blocks_with(inside: np.ndarray) -> np.ndarray:
    """The pixels of all blocks that hold one of those."""
    starts = [np.arange(0, side, PLACE_PX) for side in inside.shape]
    places = np.maximum.reduceat(np.maximum.reduceat(inside, starts[0], axis=0), starts[1], axis=1)
    return np.asarray(np.kron(places, np.ones((PLACE_PX, PLACE_PX), bool))[: inside.shape[0], : inside.shape[1]])


def psnr_in(pixels: np.ndarray, decoded: np.ndarray, where: np.ndarray) -> float:
    return psnr_of(float(np.square(decoded[where].astype(float) - pixels[where]).mean()))


def line(pixels: np.ndarray, decoded: np.ndarray, blocks: np.ndarray) -> float:
    """The mean gradient of the error across the blocks' borders, over that one latent position to both sides."""
    at_borders, beside = [], []
    error = decoded.astype(float) - pixels
    for turned, area in ((error, blocks), (error.swapaxes(0, 1), blocks.T)):
        steps = np.abs(np.diff(turned, axis=1)).mean(2)
        rows, columns = np.nonzero(area[:, 1:] != area[:, :-1])
        at_borders.append(steps[rows, columns])
        for shift in (-STRIDE, STRIDE):
            there = (columns + shift >= 0) & (columns + shift < steps.shape[1])
            beside.append(steps[rows[there], columns[there] + shift])
    return float(np.concatenate(at_borders).mean() / np.concatenate(beside).mean())


def share_in(model: Model, data: bytes, blocks: np.ndarray) -> float:
    """The part of the latent's ideal bits in a plain file that those blocks take."""
    pipeline, header, symbols = model.pipeline, inspect(data), model.symbols(data)
    assert isinstance(pipeline, HyperpriorCodec)
    level = pipeline.level(header.quality_steps, header.colour)
    grid, parts = symbols.latent.shape[1:], []
    for strip in strips_of(grid[0]):
        (index, _), values = pipeline._indices(symbols.hyper, strip, grid, level), symbols.latent[:, strip]
        bits = np.zeros(index.shape)
        for k in range(pipeline._first_coded, int(index.max()) + 1):
            signed = pipeline._y_tables[k]
            coded = np.clip(values[index == k].astype(int) + signed.limit, -1, 2 * signed.limit + 1)  # -1: the escape, too
            bits[index == k] = PRECISION - np.log2(signed.table.frequencies[coded])
        parts.append(bits.sum(0))
    spent = np.concatenate(parts)
    return float(spent[blocks[::STRIDE, ::STRIDE]].sum() / spent.sum())


def measured(model: Model, pixels: np.ndarray, quality: float, drop: float) -> Row:
    inside = ellipse(*pixels.shape[:2])
    blocks = blocks_with(inside)
    mask = np.where(inside, 255, 0).astype(np.uint8)
    high = model.encode(pixels, quality)
    low = model.encode(pixels, quality - drop)
    roi = model.encode(pixels, quality, roi=mask, roi_drop=drop)
    shown = {data: np.asarray(model.decode(data)) for data in (high, low, roi)}
    return Row(
        area=float(blocks.mean()),
        high=len(high),
        low=len(low),
        roi=len(roi),
        by_bits=share_in(model, high, blocks) * len(high) + share_in(model, low, ~blocks) * len(low),
        inside=(psnr_in(pixels, shown[high], inside), psnr_in(pixels, shown[roi], inside)),
        outside=(psnr_in(pixels, shown[low], ~blocks), psnr_in(pixels, shown[roi], ~blocks)),
        line=(line(pixels, shown[high], blocks), line(pixels, shown[roi], blocks)),
    )


def run(options: argparse.Namespace) -> None:
    model = load_model(options.model, threads=1, precision="fp32")
    command = shlex.join(["python", "benchmarks/roi.py", *sys.argv[1:]])
    parts = [f"Printed by `{command}`."]
    pictures = {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in options.pictures}
    for drop in options.drops:
        rows = {name: measured(model, pixels, options.quality, drop) for name, pixels in pictures.items()}
        low = options.quality - drop
        head = [f"black parts: {low:g}", "area", f"bytes at {options.quality:g}", f"at {low:g}", *COLUMNS]
        parts.append(table(head, [[name, *row.cells()] for name, row in rows.items()]))
    text = "\n\n".join(parts)
    print(text)
    PAGE.write_text(with_block(PAGE.read_text(), BEGIN, END, text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE")
    parser.add_argument("--model", default="few")
    parser.add_argument("--quality", type=float, default=DEFAULT_QUALITY)
    parser.add_argument("--drops", type=float, nargs="+", default=[DEFAULT_ROI_DROP], help="by how much black parts have less")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

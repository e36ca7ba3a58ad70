# SPDX-License-Identifier: MIT
"""Tiles without edges, shown beside naive blocks.

A picture is coded as a whole, in 128x128 tiles with a halo (as `fewbits` does with larger ones), and cut into 128x128 pictures
that are coded one by one. For each model this prints the coding error's gradient across the borders of that grid, over that
elsewhere (for the whole picture, where there are no borders, that is what the picture itself makes of it); how many symbols of
the tiled picture differ from those of the whole one; and the largest difference of their pixels.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from fewbits import FewbitsError, load_model
from fewbits.bench.measure import find_pictures, pixels_of
from fewbits.bench.seams import border_excess
from fewbits.codec import Model
from fewbits.runtime import factorized, hyperprior

TILE_PX: Final = 128
QUALITY: Final = 30.0


def by_blocks(model: Model, pixels: np.ndarray) -> np.ndarray:
    """Each TILE_PX x TILE_PX block of a picture coded as a picture of its own."""
    decoded = np.empty_like(pixels)
    for top in range(0, pixels.shape[0], TILE_PX):
        for left in range(0, pixels.shape[1], TILE_PX):
            block = np.s_[top : top + TILE_PX, left : left + TILE_PX]
            decoded[block] = np.asarray(model.decode(model.encode(pixels[block], QUALITY)))
    return decoded


def stride_of(model: Model) -> int:
    return int(model.bundle.coding.get("stride", 16))


@contextmanager
def small_tiles(step: int) -> Iterator[None]:
    """Tiles of `step` latent rows and columns; they change time and memory, never the result."""
    modules: tuple[Any, ...] = (factorized, hyperprior)
    usual = [(module.TILE_ROWS, module.TILE_COLUMNS) for module in modules]
    for module in modules:
        module.TILE_ROWS = module.TILE_COLUMNS = step
    try:
        yield
    finally:
        for module, (rows, columns) in zip(modules, usual, strict=True):
            module.TILE_ROWS, module.TILE_COLUMNS = rows, columns


def run(options: argparse.Namespace) -> None:
    pictures = find_pictures([options.images], options.limit)
    print(f"{len(pictures)} pictures, quality {QUALITY:g}, tiles and blocks of {TILE_PX}x{TILE_PX} pixels")
    print("gradient of the error at the grid's borders, over that elsewhere\n")
    print(f"{'model':10} {'whole':>7} {'tiles':>7} {'naive blocks':>13} {'symbols that differ':>22} {'pixels differ by':>17}")
    for name in options.models.split(","):
        model = load_model(name, precision="fp32")
        stride = int(model.bundle.coding.get("stride", 16))
        ratios, moved, symbols, worst = [], 0, 0, 0
        for picture in pictures:
            pixels = pixels_of(picture.path)
            whole = model.encode(pixels, QUALITY)
            as_whole = np.asarray(model.decode(whole))
            with small_tiles(TILE_PX // stride):
                tiled = model.encode(pixels, QUALITY)
                as_tiles = np.asarray(model.decode(tiled))
            pairs = list(zip(model.symbols(tiled), model.symbols(whole), strict=True))
            moved += sum(int((ours != theirs).sum()) for ours, theirs in pairs)
            symbols += sum(ours.size for ours, _ in pairs)
            worst = max(worst, int(np.abs(as_tiles.astype(int) - as_whole).max()))
            versions = (as_whole, as_tiles, by_blocks(model, pixels))
            ratios.append([border_excess(pixels, decoded, TILE_PX, stride) for decoded in versions])
        mean = np.mean(ratios, axis=0)
        differ = f"{moved} of {symbols}"
        print(f"{name:10} {mean[0]:7.3f} {mean[1]:7.3f} {mean[2]:13.3f} {differ:>22} {worst:17}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of pictures")
    parser.add_argument("--models", default="few,slimcae", help="names or folders of bundles (default %(default)s)")
    parser.add_argument("--limit", type=int, help="take only the first N pictures")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""A part of a picture, and how small it is shown: regions, scales, and averages of blocks of pixels."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fewbits.errors import ImageError

SCALES: Final = (1, 2, 4, 8)  # 1 / scale of the size


@dataclass(frozen=True)
class View:
    """Rows and columns in pixels of the upright picture, and the side of the blocks of them that become one pixel each."""

    rows: slice
    columns: slice
    scale: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what is seen, in pixels. Blocks at the lower and right edge may be smaller than the others."""
        return -(-self._height // self.scale), -(-(self.columns.stop - self.columns.start) // self.scale)

    @property
    def _height(self) -> int:
        return int(self.rows.stop - self.rows.start)

    def assemble(self, bands: Iterable[np.ndarray]) -> np.ndarray:
        """Pixels of the region in bands (n, columns, ...) from the top, any n -> what is seen, (*shape, ...) of their dtype."""
        out = rest = np.empty(0)
        top = 0
        for band in bands:
            if self.scale == 1 and len(band) == self._height:
                out = np.ascontiguousarray(band)
                continue  # to the end, where what makes bands may look whether all was right
            if out.ndim == 1:
                out, rest = np.empty((*self.shape, *band.shape[2:]), band.dtype), band[:0]
            there = np.concatenate([rest, band]) if len(rest) else band
            last = top * self.scale + len(there) == self._height
            whole = len(there) if last else len(there) // self.scale * self.scale
            if whole:
                n_rows = -(-whole // self.scale)
                out[top : top + n_rows] = box_averaged(there[:whole], self.scale)
                top += n_rows
            rest = there[whole:].copy()
            del band, there  # before the next one is made
        return out

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """The same of a whole picture (height, width, ...)."""
        return self.assemble([pixels[self.rows, self.columns]])


def view_of(region: Any, scale: Any, width: int, height: int) -> View:
    """region: (x, y, width, height) in pixels of a picture of that size, or None for all of it; scale: one of SCALES.

    Raises ImageError.
    """
    if scale not in SCALES:
        raise ImageError(f"scale is {scale}, it must be one of {', '.join(map(str, SCALES))}")
    if region is None:
        return View(slice(0, height), slice(0, width), int(scale))
    try:
        x, y, w, h = (int(value) for value in region)
        whole = all(int(value) == value for value in region)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ImageError(f"region is {region!r}, it must be four whole numbers x, y, width, height")
    if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
        raise ImageError(f"region is {x},{y},{w},{h} (x, y, width, height), it must lie in the picture, {width}x{height} pixels")
    return View(slice(y, y + h), slice(x, x + w), int(scale))


def box_averaged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Integers (height, width, ...) -> the mean of each block of scale x scale, rounded; those at the lower and right edge may be
    smaller."""
    if scale == 1:
        return pixels
    starts = [np.arange(0, side, scale) for side in pixels.shape[:2]]
    sums = np.add.reduceat(np.add.reduceat(pixels, starts[0], axis=0, dtype=np.uint32), starts[1], axis=1)
    rows, columns = (np.minimum(scale, side - start) for side, start in zip(pixels.shape[:2], starts, strict=True))
    sizes = np.multiply.outer(rows, columns).astype(np.uint32).reshape(*sums.shape[:2], *[1] * (pixels.ndim - 2))
    return np.asarray(((2 * sums + sizes) // (2 * sizes)).astype(pixels.dtype))

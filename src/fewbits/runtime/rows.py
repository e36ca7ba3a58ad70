# SPDX-License-Identifier: MIT
"""Arrays too large to hold: their rows come from the top in bands, and those that nobody needs any more are let go."""

from collections import deque
from collections.abc import Iterable

import numpy as np


class Rows:
    """An array (..., rows, columns) of which only a stretch of rows is in memory. It can be walked once, downwards."""

    def __init__(self, grid: tuple[int, int], bands: Iterable[np.ndarray], first: int = 0) -> None:
        """grid: (rows, columns). bands: arrays (..., n, columns), one below the other from row `first` on, made when needed."""
        self.grid, self._bands, self._stop = grid, iter(bands), first
        self._held: deque[tuple[int, np.ndarray]] = deque()  # the first row of each band that is held

    @classmethod
    def of(cls, array: "np.ndarray | Rows") -> "Rows":
        """An array that is there as a whole; Rows as they are."""
        return array if isinstance(array, Rows) else cls((array.shape[-2], array.shape[-1]), [array])

    def take(self, part: slice) -> np.ndarray:
        """Rows part.start to part.stop, which must not reach above what was let go; a view where one band has them all."""
        while self._stop < part.stop:
            band = next(self._bands)
            self._held.append((self._stop, band))
            self._stop += band.shape[-2]
        assert self._held and self._held[0][0] <= part.start, "rows that were let go"
        found = [
            band[..., max(part.start - top, 0) : part.stop - top, :]
            for top, band in self._held
            if top < part.stop and part.start < top + band.shape[-2]
        ]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=-2)

    def forget(self, before: int) -> None:
        """Rows above `before` are no longer needed."""
        while self._held and self._held[0][0] + self._held[0][1].shape[-2] <= before:
            self._held.popleft()

    def whole(self) -> np.ndarray:
        """All rows as one array."""
        out, top = np.empty(0), 0
        for band in self._bands:
            if band.shape[-2] == self.grid[0]:
                return band
            if not top:
                out = np.empty((*band.shape[:-2], *self.grid), band.dtype)
            out[..., top : top + band.shape[-2], :] = band
            top += band.shape[-2]
        return out

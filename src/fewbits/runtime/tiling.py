# SPDX-License-Identifier: MIT
"""Convolutional networks on large arrays, tile by tile, with the same result as in one piece.

A tile is read with a halo as wide as the receptive field reaches; at the array's own borders there is no halo, so the
network pads there as it would for the whole. What the halo produced is cut off again.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple


class Tile(NamedTuple):
    """Rows and columns in grid units: `inner_*` is what the tile yields, `outer_*` what it reads."""

    inner_rows: slice
    inner_columns: slice
    outer_rows: slice
    outer_columns: slice

    @property
    def cut(self) -> tuple[slice, slice]:
        """Where the inner part lies within the outer part."""
        return _within(self.inner_rows, self.outer_rows), _within(self.inner_columns, self.outer_columns)


def _within(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)


def scaled(part: slice, factor: int) -> slice:
    """The same stretch in units that are `factor` times finer."""
    return slice(part.start * factor, part.stop * factor)


def _stretches(length: int, step: int, halo: int, align: int, window: slice) -> Iterator[tuple[slice, slice]]:
    for start in range(window.start, window.stop, step):
        stop = min(start + step, window.stop)
        yield slice(start, stop), slice(max(0, start - halo) // align * align, min(length, -(-(stop + halo) // align) * align))


def tiles(
    rows: int, columns: int, *, tile_rows: int, tile_columns: int, halo: int, align: int = 1,
    window: tuple[slice, slice] | None = None,
) -> Iterator[Tile]:  # fmt: skip
    """Cover a grid of rows x columns, or a window of it; outer parts lie on multiples of `align` or end where the grid does."""
    window = window or (slice(0, rows), slice(0, columns))
    for inner_rows, outer_rows in _stretches(rows, tile_rows, halo, align, window[0]):
        for inner_columns, outer_columns in _stretches(columns, tile_columns, halo, align, window[1]):
            yield Tile(inner_rows, inner_columns, outer_rows, outer_columns)


class TilePlan(NamedTuple):
    """Sizes, halo and alignment of tiles in grid units. blocks: each tile is by itself, so that its place shapes the result."""

    rows: int
    columns: int
    halo: int
    align: int = 1
    blocks: bool = False

    def cover(self, rows: int, columns: int, window: tuple[slice, slice] | None = None) -> list[list[Tile]]:
        """The tiles of a grid of rows x columns, row of tiles by row of tiles; with a window at least those that it needs."""
        if window and self.blocks:
            window = _whole_blocks(window[0], self.rows, rows), _whole_blocks(window[1], self.columns, columns)
        parts = tiles(
            rows, columns, tile_rows=self.rows, tile_columns=self.columns, halo=self.halo, align=self.align, window=window
        )
        return [list(row) for _, row in groupby(parts, lambda tile: tile.inner_rows)]


def _whole_blocks(part: slice, size: int, length: int) -> slice:
    return slice(part.start // size * size, min(length, -(-part.stop // size) * size))

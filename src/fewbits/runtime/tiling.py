# SPDX-License-Identifier: MIT
"""Convolutional networks on large arrays, tile by tile, with the same result as in one piece.

A tile is read with a halo as wide as the receptive field reaches; at the array's own borders there is no halo, so the
network pads there as it would for the whole. What the halo produced is cut off again.
"""

from collections.abc import Iterator
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


def _stretches(length: int, step: int, halo: int, align: int) -> Iterator[tuple[slice, slice]]:
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield slice(start, stop), slice(max(0, start - halo) // align * align, min(length, -(-(stop + halo) // align) * align))


def tiles(rows: int, columns: int, *, tile_rows: int, tile_columns: int, halo: int, align: int = 1) -> Iterator[Tile]:
    """Cover a grid of rows x columns; outer parts start and end on multiples of `align` or at the grid's end."""
    for inner_rows, outer_rows in _stretches(rows, tile_rows, halo, align):
        for inner_columns, outer_columns in _stretches(columns, tile_columns, halo, align):
            yield Tile(inner_rows, inner_columns, outer_rows, outer_columns)

# SPDX-License-Identifier: MIT
"""Tiles cover a grid once, and a halo that is wide enough makes them exact."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fewbits.runtime.tiling import Tile, scaled, tiles

sizes = st.integers(1, 40)


@given(sizes, sizes, sizes, sizes, st.integers(0, 9), st.sampled_from([1, 2, 4]))
def test_tiles_cover_every_place_once_and_reach_a_halo_further(
    rows: int, columns: int, tile_rows: int, tile_columns: int, halo: int, align: int
) -> None:
    seen = np.zeros((rows, columns), int)
    places = np.arange(rows * columns).reshape(rows, columns)
    for tile in tiles(rows, columns, tile_rows=tile_rows, tile_columns=tile_columns, halo=halo, align=align):
        seen[tile.inner_rows, tile.inner_columns] += 1
        outer = places[tile.outer_rows, tile.outer_columns]
        assert np.array_equal(outer[tile.cut], places[tile.inner_rows, tile.inner_columns])
        for inner, outer_part, length in (
            (tile.inner_rows, tile.outer_rows, rows),
            (tile.inner_columns, tile.outer_columns, columns),
        ):
            assert 0 <= outer_part.start <= max(0, inner.start - halo)
            assert min(length, inner.stop + halo) <= outer_part.stop <= length
            assert outer_part.start % align == 0 and (outer_part.stop % align == 0 or outer_part.stop == length)
    assert (seen == 1).all()


def box(array: np.ndarray, radius: int) -> np.ndarray:
    """A zero-padded box filter, the simplest network with a receptive field."""
    padded = np.pad(array, radius)
    steps = range(2 * radius + 1)
    return sum(padded[r : r + array.shape[0], c : c + array.shape[1]] for r in steps for c in steps)


def by_tiles(array: np.ndarray, radius: int, halo: int) -> np.ndarray:
    out = np.empty_like(array)
    for tile in tiles(*array.shape, tile_rows=5, tile_columns=7, halo=halo):
        out[tile.inner_rows, tile.inner_columns] = box(array[tile.outer_rows, tile.outer_columns], radius)[tile.cut]
    return out


def test_a_halo_as_wide_as_the_receptive_field_makes_tiles_exact() -> None:
    array = np.random.default_rng(0).integers(0, 1000, (23, 31))
    assert np.array_equal(by_tiles(array, radius=2, halo=2), box(array, 2))
    assert not np.array_equal(by_tiles(array, radius=2, halo=1), box(array, 2))


def test_scaled_stretches_are_the_same_in_finer_units() -> None:
    assert scaled(slice(2, 5), 16) == slice(32, 80)
    whole = Tile(slice(4, 6), slice(0, 2), slice(3, 7), slice(0, 3))
    assert whole.cut == (slice(1, 3), slice(0, 2))

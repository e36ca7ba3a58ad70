# SPDX-License-Identifier: MIT
"""Rows from the top down: the same as slices of the whole, and no more held than asked for."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.runtime.rows import Rows

WHOLE = np.arange(2 * 30 * 3).reshape(2, 30, 3)


def bands(size: int, made: list[int], first: int = 0) -> Iterator[np.ndarray]:
    for top in range(first, 30, size):
        made.append(top)
        yield WHOLE[:, top : top + size].copy()


@given(st.integers(1, 31), st.integers(1, 9), st.integers(0, 6))
def test_windows_are_those_of_the_whole(size: int, step: int, halo: int) -> None:
    rows = Rows((30, 3), bands(size, []))
    for top in range(0, 30, step):
        part = slice(max(0, top - halo), min(30, top + step + halo))
        assert np.array_equal(rows.take(part), WHOLE[:, part])
        rows.forget(top + step - halo)


def test_bands_are_made_when_needed_and_let_go() -> None:
    made: list[int] = []
    rows = Rows((30, 3), bands(4, made))
    assert made == []
    rows.take(slice(2, 5))
    assert made == [0, 4]
    rows.forget(7)
    assert [top for top, _ in rows._held] == [4]
    with pytest.raises(AssertionError, match="let go"):
        rows.take(slice(3, 5))


def test_they_may_begin_further_down() -> None:
    made: list[int] = []
    assert np.array_equal(Rows((30, 3), bands(4, made, 12), 12).take(slice(13, 21)), WHOLE[:, 13:21])
    assert made == [12, 16, 20]


@pytest.mark.parametrize("size", [1, 7, 30])
def test_the_whole(size: int) -> None:
    assert np.array_equal(Rows((30, 3), bands(size, [])).whole(), WHOLE)
    rows = Rows.of(WHOLE)
    assert Rows.of(rows) is rows and rows.grid == (30, 3) and rows.whole() is WHOLE

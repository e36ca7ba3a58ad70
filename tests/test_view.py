# SPDX-License-Identifier: MIT
"""Regions and scales of arrays: against plain slices and means."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import ImageError
from fewbits.view import SCALES, box_averaged, view_of


def block_means(pixels: np.ndarray, scale: int) -> np.ndarray:
    """By loops."""
    height, width = pixels.shape[:2]
    return np.array(
        [
            [pixels[top : top + scale, left : left + scale].mean((0, 1)) for left in range(0, width, scale)]
            for top in range(0, height, scale)
        ]
    )


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from(SCALES), st.sampled_from([np.uint8, np.uint16]))
def test_blocks_are_averaged_and_rounded(height: int, width: int, scale: int, dtype: type) -> None:
    pixels = np.random.default_rng(height * width).integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)
    small = box_averaged(pixels, scale)
    assert small.dtype == dtype and small.shape == (-(-height // scale), -(-width // scale), 3)
    assert np.abs(small - block_means(pixels, scale)).max() <= 0.5
    assert np.array_equal(box_averaged(pixels[:, :, 0], scale), small[:, :, 0])


@given(st.data(), st.sampled_from(SCALES))
def test_bands_of_any_height_give_what_the_whole_gives(data: st.DataObject, scale: int) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    view, part = view_of((x, y, w, h), scale, width, height), pixels[y : y + h, x : x + w]
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, h - 1)))), h] if h > 1 else [0, h]
    found = view.assemble(part[top:stop] for top, stop in zip(cuts, cuts[1:], strict=False))
    assert view.shape == found.shape[:2] == (math.ceil(h / scale), math.ceil(w / scale))
    assert np.array_equal(found, box_averaged(part, scale)) and np.array_equal(found, view.of(pixels))


def test_without_a_region_all_is_seen() -> None:
    assert view_of(None, 1, 30, 20) == view_of((0, 0, 30, 20), 1, 30, 20) == view_of(np.array([0, 0, 30, 20]), 1, 30, 20)


@pytest.mark.parametrize(
    "region",
    [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (26, 0, 5, 5), (0, 16, 5, 5), (0, 0, 31, 1), (30, 0, 1, 1)],
)
def test_regions_outside_are_refused(region: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="region is .* must lie in the picture, 30x20 pixels"):
        view_of(region, 1, 30, 20)


@pytest.mark.parametrize(
    "region", [(1, 2, 3), (1, 2, 3, 4, 5), (0, 0, 1.5, 2), "abcd", 7, (0, 0, float("nan"), 1), (0, 0, None, 1)]
)
def test_what_is_no_region_is_refused(region: object) -> None:
    with pytest.raises(ImageError, match="it must be four whole numbers x, y, width, height"):
        view_of(region, 1, 30, 20)


@pytest.mark.parametrize("scale", [0, 3, 16, -2, 0.5, "1/2", None])
def test_other_scales_are_refused(scale: object) -> None:
    with pytest.raises(ImageError, match="scale is .*, it must be one of 1, 2, 4, 8"):
        view_of(None, scale, 30, 20)

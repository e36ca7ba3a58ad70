# SPDX-License-Identifier: MIT
"""Pictures as values: depths, and the colours that nobody sees."""

from collections.abc import Callable

import numpy as np
import pytest

from fewbits.errors import ImageError
from fewbits.picture import Metadata, Picture, at_depth, filled, flattened, opaque_bytes

Draw = Callable[..., np.ndarray]


def test_eight_bits_survive_sixteen() -> None:
    levels = np.arange(256, dtype=np.uint8)
    deep = at_depth(levels, 16)
    assert deep.dtype == np.uint16 and deep[[0, 1, 255]].tolist() == [0, 257, 65535]
    assert np.array_equal(at_depth(deep, 8), levels)


def test_sixteen_bits_are_rounded_to_eight() -> None:
    assert at_depth(np.array([0, 128, 129, 65406, 65407, 65535], np.uint16), 8).tolist() == [0, 0, 1, 254, 255, 255]


def test_opaque_pixels_are_coded_as_they_are(picture: Draw) -> None:
    pixels = picture(7, 9)
    assert filled(Picture(pixels, "rgb")) is pixels
    assert filled(Picture(pixels, "rgb", np.full((7, 9), 1, np.uint8))) is pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 2), (7, 9), (64, 33)])
def test_pixels_that_show_are_never_changed(size: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, np.iinfo(dtype).max, (*size, 3)).astype(dtype)
    alpha = (rng.random(size) < 0.3).astype(dtype)
    alpha[0, 0] = 1
    result = filled(Picture(pixels, "rgb", alpha))
    assert result.dtype == dtype and np.array_equal(result[alpha > 0], pixels[alpha > 0])
    hidden = result[alpha == 0]
    assert hidden.size == 0 or (hidden.max(0) <= pixels[alpha > 0].max(0)).all()


def test_hidden_pixels_take_the_colours_around_them() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4], pixels[:, 4:] = (200, 10, 10), (10, 10, 200)
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[2:6, 1:3] = 0
    noisy = pixels.copy()
    noisy[alpha == 0] = (0, 255, 0)
    assert np.array_equal(filled(Picture(noisy, "rgb", alpha)), pixels)


def test_nothing_to_see_is_black() -> None:
    picture = Picture(np.full((3, 4, 3), 77, np.uint8), "rgb", np.zeros((3, 4), np.uint8))
    assert not filled(picture).any()


def test_metrics_see_opaque_bytes_only(picture: Draw) -> None:
    assert opaque_bytes(Picture(np.full((2, 2, 3), 65407, np.uint16), "rgb"), "x").tolist() == [[[255] * 3] * 2] * 2
    with pytest.raises(ImageError, match="x.png: it has transparent pixels"):
        opaque_bytes(Picture(picture(2, 2), "rgb", np.zeros((2, 2), np.uint8)), "x.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_is_laid_onto_a_colour(picture: Draw, dtype: type) -> None:
    whole = int(np.iinfo(dtype).max)
    pixels = at_depth(picture(600, 5), 8 * np.dtype(dtype).itemsize)
    alpha = np.random.default_rng(0).choice([0, whole // 3, whole - 1, whole], (600, 5)).astype(dtype)
    found = flattened(Picture(pixels, "rgb", alpha, Metadata(exif=b"II")), (255, 128, 0))
    share = alpha[:, :, None] / whole
    expected = np.rint(pixels * share + np.array([255, 128, 0]) * (whole // 255) * (1 - share))
    assert found.alpha is None and found.pixels.dtype == dtype and found.metadata.exif == b"II"
    assert np.array_equal(found.pixels, expected)


def test_grey_onto_grey_stays_grey() -> None:
    grey = Picture(np.full((2, 2, 3), 9, np.uint8), "grey", np.full((2, 2), 100, np.uint8))
    assert flattened(grey, (7, 7, 7)).colour == "grey" and flattened(grey, (7, 7, 8)).colour == "rgb"
    opaque = Picture(grey.pixels, "grey")
    assert flattened(opaque, (0, 0, 0)) is opaque

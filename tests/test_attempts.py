# SPDX-License-Identifier: MIT
"""Windows that stand for a picture, in a search for a quality."""

import numpy as np
import pytest

from fewbits.attempts import FEWEST_WINDOWS, SAMPLED_FROM, WINDOW_PX, window_corners


def test_windows_are_as_detailed_as_the_picture() -> None:
    """Noise that grows from left to right."""
    rows, columns = 4 * WINDOW_PX, 8 * WINDOW_PX
    strength = np.linspace(0, 50, columns)[None, :, None]
    noise = np.random.default_rng(0).uniform(-1, 1, (rows, columns, 3))
    corners = window_corners((128 + noise * strength).astype(np.uint8))
    assert len(set(corners)) == FEWEST_WINDOWS
    assert all(row % WINDOW_PX == 0 and column % WINDOW_PX == 0 for row, column in corners)
    assert np.mean([column for _, column in corners]) == pytest.approx((columns - WINDOW_PX) / 2, rel=0.1)


def test_small_pictures_are_not_sampled() -> None:
    assert not window_corners(np.zeros((3 * WINDOW_PX, SAMPLED_FROM // 3 * WINDOW_PX - 1, 3), np.uint8))
    assert window_corners(np.zeros((3 * WINDOW_PX, SAMPLED_FROM // 3 * WINDOW_PX, 3), np.uint8))

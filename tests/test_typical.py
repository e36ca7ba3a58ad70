# SPDX-License-Identifier: MIT
"""Where a picture's scores probably lie: curves that rise, whatever the picture, and places on them."""

import numpy as np
import pytest

from fewbits import typical
from fewbits.attempts import MEASURES


def test_there_is_a_line_for_every_metric() -> None:
    assert set(typical.LINES) == set(MEASURES)
    for line in typical.LINES.values():
        assert len(line.middle) == 1 + 2 * typical.SCALES and len(line.at) == len(line.by) and len(line.at) % 2


@pytest.mark.parametrize("name", typical.LINES)
def test_curves_rise_and_places_undo_them(name: str, photo: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    for pixels in (photo, noise, np.zeros((64, 64, 3), np.uint8), photo[:1, :1], photo[:20, :40]):
        scores = typical.curve(name, pixels)
        assert list(scores) == sorted(set(scores))
        assert [typical.place(scores, score) for score in scores] == pytest.approx(np.linspace(0, 1, len(scores)))
        assert typical.place(scores, scores[0] - 1) < 0 and typical.place(scores, scores[-1] + 1) > 1


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_what_has_more_detail_has_lower_scores(name: str, photo: np.ndarray) -> None:
    smooth = (photo // 4 + 96).astype(np.uint8)
    assert max(np.subtract(typical.curve(name, photo), typical.curve(name, smooth))) < 0


def test_detail_is_steps_between_neighbours() -> None:
    """Stripes of 10 down the picture: 10 across, 0 down; gone at coarser scales."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 10
    _, logs, means, *coarser = typical.features(stripes)
    assert [logs, means] == pytest.approx([np.log(10.5)] * 2, abs=0.05)
    assert coarser == pytest.approx([np.log(0.5)] * 4)

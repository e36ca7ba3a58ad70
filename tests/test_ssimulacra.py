# SPDX-License-Identifier: MIT
"""SSIMULACRA2 beside the package of that name; tests/bench/test_metrics.py compares it with its description."""

import io

import numpy as np
import pytest
from PIL import Image

from fewbits import ssimulacra


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def packaged(x: np.ndarray, y: np.ndarray) -> float:
    """The package reads files: uncompressed ones in memory."""
    files = [io.BytesIO() for _ in range(2)]
    for file, pixels in zip(files, (x, y), strict=True):
        Image.fromarray(pixels).save(file, "PPM")
        file.seek(0)
    return float(pytest.importorskip("ssimulacra2").compute_ssimulacra2(*files))


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (101, 77), (250, 333)])
@pytest.mark.parametrize("quality", [2, 30, 60, 96])
def test_scores_are_those_of_the_package(size: tuple[int, int], quality: int, photo: np.ndarray) -> None:
    """Also of odd sides, and of pictures that are too small for all scales."""
    x = photo[100 : 100 + size[0], 150 : 150 + size[1]]
    y = jpeg(x, quality)
    assert ssimulacra.score(x, y) == pytest.approx(packaged(x, y), abs=0.005)


def test_what_is_taken_of_some_bands_moves_no_score(photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels whose weights are next to nothing."""
    x = photo[:401, :303]
    for quality in (5, 50, 95):
        y = jpeg(x, quality)
        score = ssimulacra.score(x, y)
        with monkeypatch.context() as patch:
            patch.setattr(ssimulacra, "SLIGHT", 0)
            assert score == pytest.approx(ssimulacra.score(x, y), abs=0.002)


def test_equal_pictures_have_100_and_scores_fall_with_noise(photo: np.ndarray) -> None:
    x = photo[:120, :90]
    noise = np.random.default_rng(0).normal(size=x.shape)
    scores = [ssimulacra.score(x, np.clip(x + noise * deviation, 0, 255).astype(np.uint8)) for deviation in (0, 2, 8, 30)]
    assert scores[0] == 100 and scores == sorted(scores, reverse=True) and scores[-1] < 50

# SPDX-License-Identifier: MIT
"""Where the scores of a picture probably lie at each quality, told by its detail: what a search for a quality begins with.

Detail is how far neighbouring values of green are apart, in blocks, at three scales. A line over its logarithms gives the score
at the middle quality, lines over that score those at all others. Fitted by benchmarks/typical.py, which prints the numbers.
"""

from bisect import bisect
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

SCALES: Final = 3
BLOCK: Final = 16  # a side, in values of the scale
_SOME: Final = 0.5  # added to detail, whose logarithm is taken
_LEAST_RISE: Final = 1 / 20  # of a typical picture's from one quality to the next, so that every curve rises


class Line(NamedTuple):
    """What scores of one metric are told by. middle: weights of `features`, whose sum is the score at the middle quality; at and
    by: score = at + by * middle, for qualities evenly from 0 to 100."""

    middle: tuple[float, ...]
    at: tuple[float, ...]
    by: tuple[float, ...]


LINES: Final = {
    "psnr": Line(
        (46.6397, 0.9072, -8.0883, 0.0672, 2.1067, 0.0768, -0.3179),
        (-6.173, -5.959, -5.186, -3.997, -2.207, 0.0, 2.367, 4.443, 6.043, 7.1, 7.502),
        (0.9951, 1.0264, 1.0391, 1.0403, 1.0253, 1.0, 0.971, 0.9498, 0.9399, 0.9423, 0.9582),
    ),
    "ssim": Line(
        (11.1997, -5.0903, -0.894, 2.0884, 0.5043, -0.9136, 3.193),
        (-3.387, -3.1, -2.651, -2.086, -1.21, 0.0, 1.508, 3.286, 5.077, 6.857, 8.403),
        (0.9087, 0.9593, 0.9938, 1.0202, 1.0231, 1.0, 0.9554, 0.8894, 0.8217, 0.7504, 0.6914),
    ),
    "ssimulacra2": Line(
        (66.9513, -8.4198, -10.0619, 12.0909, -4.9443, -8.8377, 17.0297),
        (-179.302, -138.522, -97.82, -59.806, -26.193, 0.0, 22.379, 38.619, 50.442, 57.992, 62.735),
        (2.7715, 2.4285, 2.0333, 1.6391, 1.2779, 1.0, 0.7559, 0.5844, 0.4601, 0.386, 0.3421),
    ),
}


def features(pixels: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) -> 1, then for each scale the mean logarithm of its blocks' detail, and the logarithm of their mean.

    A scale that has no block is taken to be like the one before.
    """
    plane, found = pixels[..., 1].astype(np.int16), [1.0]
    last = (0.0, 0.0)
    for scale in range(SCALES):
        rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
        if rows and columns:
            blocks = _detail(plane[: rows * BLOCK, : columns * BLOCK]) / 4**scale + _SOME
            last = float(np.log(blocks).mean()), float(np.log(blocks.mean()))
        found += last
        plane = plane[: len(plane) // 2 * 2, : plane.shape[1] // 2 * 2]
        plane = plane[::2] + plane[1::2]
        plane = plane[:, ::2] + plane[:, 1::2]  # sums, 4 times as large at each scale
    return np.array(found)


def _detail(plane: np.ndarray) -> np.ndarray:
    """int16 -> the mean steps across and down in each block, float64; of every other pair of rows, which is enough."""
    even, odd = plane[::4], plane[1::4]
    steps = np.abs(np.diff(even, axis=1, append=even[:, -1:]))
    steps += np.abs(even - odd)
    blocks = steps.reshape(-1, BLOCK // 4, steps.shape[1] // BLOCK, BLOCK)
    return np.asarray(blocks.sum((1, 3), dtype=np.int64) / (BLOCK * BLOCK // 4))


def curve(name: str, pixels: np.ndarray) -> tuple[float, ...]:
    """The probable scores of a picture by a metric of LINES, at qualities evenly from 0 to 100, rising."""
    line = LINES[name]
    middle = float(features(pixels) @ line.middle)
    scores = np.array(line.at) + np.array(line.by) * middle
    rises = np.maximum(np.diff(scores), _LEAST_RISE * (scores[-1] - scores[0]) / len(scores) + 1e-3)
    half = len(scores) // 2
    return tuple(scores[half] + np.concatenate([[0], rises]).cumsum() - rises[:half].sum())


def place(scores: Sequence[float], score: float) -> float:
    """Where from 0 to 1 a rising curve has the score; beyond the ends along its first and last piece."""
    piece = min(max(bisect(scores, score), 1), len(scores) - 1)
    low, high = scores[piece - 1 : piece + 1]
    return (piece - 1 + (score - low) / (high - low)) / (len(scores) - 1)

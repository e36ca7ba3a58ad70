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
        (46.3475, 0.6902, -7.9492, 0.9876, 1.2606, -0.578, 0.4621),
        (-5.735, -6.065, -5.246, -4.083, -2.287, 0.0, 2.393, 4.655, 6.406, 7.602, 8.161),
        (0.9812, 1.0286, 1.0401, 1.0424, 1.0279, 1.0, 0.9699, 0.9433, 0.9288, 0.927, 0.938),
    ),
    "ssim": Line(
        (11.174, -4.983, -1.1096, 1.9964, 0.7663, -0.9659, 3.1858),
        (-3.387, -3.128, -2.661, -2.084, -1.214, 0.0, 1.469, 3.21, 5.03, 6.763, 8.407),
        (0.9096, 0.9594, 0.9927, 1.0197, 1.0238, 1.0, 0.9576, 0.895, 0.8238, 0.7573, 0.6882),
    ),
    "ssimulacra2": Line(
        (66.6396, -10.7751, -6.9458, 11.6237, -6.0377, -6.4196, 15.4324),
        (-180.833, -143.789, -100.894, -61.029, -26.999, 0.0, 21.215, 37.806, 49.175, 56.944, 61.572),
        (2.7789, 2.4967, 2.0739, 1.6539, 1.2906, 1.0, 0.7726, 0.5947, 0.4774, 0.3998, 0.3577),
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

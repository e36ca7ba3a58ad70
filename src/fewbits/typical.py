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
        (46.4495, 0.6235, -7.9285, 1.0021, 1.7727, -0.8326, 0.2648),
        (-7.675, -7.105, -6.078, -4.551, -2.467, 0.0, 2.45, 4.565, 6.034, 6.87, 7.071),
        (1.042, 1.06, 1.0638, 1.0545, 1.0319, 1.0, 0.97, 0.9488, 0.9424, 0.951, 0.9717),
    ),
    "ssim": Line(
        (11.116, -5.37, -0.6055, 2.4574, 0.4768, -1.0226, 3.0242),
        (-3.414, -3.248, -2.897, -2.252, -1.327, 0.0, 1.653, 3.53, 5.427, 7.259, 8.717),
        (0.9177, 0.9728, 1.0134, 1.0311, 1.0308, 1.0, 0.9459, 0.8754, 0.7991, 0.7261, 0.6737),
    ),
    "ssimulacra2": Line(
        (73.1729, -7.6123, -8.0542, 11.728, -3.5142, -7.0934, 11.6097),
        (-193.292, -139.568, -97.163, -59.009, -26.481, 0.0, 22.196, 39.085, 50.841, 57.796, 62.028),
        (2.9906, 2.4573, 2.0258, 1.625, 1.2809, 1.0, 0.7625, 0.5835, 0.4609, 0.3946, 0.3569),
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

# SPDX-License-Identifier: MIT
"""SSIM and MS-SSIM with numpy: the well-kept libraries for MS-SSIM all need torch. For the bench, targets of quality and effort.

The definition is that of pytorch-msssim, with which the field's published curves were measured: 11x11 Gaussian window of
deviation 1.5 where it fits entirely, each of R, G, B by itself, then their mean. docs/adr/0008 says why it is ours; a test
compares it with that library and with scikit-image.
"""

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np

from fewbits.errors import ImageError

WINDOW: Final = 11
DEVIATION: Final = 1.5
MIDDLE: Final = 128
BAND: Final = 48  # rows at a time: few enough for the caches
STEP: Final = 2  # positions, where SSIM is taken fast; divides BAND and COLUMNS
COLUMNS: Final = 32  # likewise, in products with a matrix that is nearly empty where there are more
ONE_THREAD: Final = 1 << 18  # multiplications of a product: of more OpenBLAS makes a job for all its threads
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik, Asilomar 2003, section 3.2
SMALLEST: Final = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1  # the shorter side that MS-SSIM needs, in pixels


def ssim(original: np.ndarray, decoded: np.ndarray) -> float:
    """Structural similarity (Wang et al., TIP 2004) of two uint8 RGB pictures (h, w, 3), at most 1. Raises ImageError."""
    return _ssim(original, decoded, np.float64, 1)


def fast_ssim(original: np.ndarray, decoded: np.ndarray) -> float:
    """The same in float32 and at every STEP-th position down and across: half the time of float32 alone.

    The window makes SSIM so smooth that those left out hardly count; the two differ by some 0.01 dB.
    """
    return _ssim(original, decoded, np.float32, STEP)


def _ssim(original: np.ndarray, decoded: np.ndarray, dtype: type[np.floating[Any]], step: int) -> float:
    _check(original, decoded, WINDOW, "SSIM")
    x, y = (pixels.transpose(2, 0, 1) for pixels in (original, decoded))
    return float(_ssim_and_contrast(x, y, dtype, step)[0].mean())


def ms_ssim(original: np.ndarray, decoded: np.ndarray) -> float:
    """Multi-scale SSIM of two uint8 RGB pictures (h, w, 3), 0 to 1. Raises ImageError, also below 161 pixels a side."""
    _check(original, decoded, SMALLEST, "MS-SSIM")
    x, y = (np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float64) for pixels in (original, decoded))
    product = np.ones(len(x))
    for scale, weight in enumerate(WEIGHTS):
        similarity, contrast = _ssim_and_contrast(x, y, np.float64, 1)
        last = scale == len(WEIGHTS) - 1
        product *= np.maximum(similarity if last else contrast, 0) ** weight
        if not last:
            x, y = halved(x), halved(y)
    return float(product.mean())


def decibels(similarity: float) -> float:
    """-10 log10(1 - similarity): the axis on which SSIM and MS-SSIM are compared; inf for equal pictures."""
    return -10 * math.log10(1 - similarity) if similarity < 1 else math.inf


def _ssim_and_contrast(x: np.ndarray, y: np.ndarray, dtype: type[np.floating[Any]], step: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean SSIM and mean contrast-structure term of each channel, over the positions where the window fits, every step-th.

    Taken band by band, so that little memory is needed at a time.
    """
    rows, columns = (-(-(side - WINDOW + 1) // step) for side in x.shape[1:])
    totals = np.zeros((2, len(x)))
    for start in range(0, x.shape[1] - WINDOW + 1, BAND):
        part = slice(start, min(start + BAND, x.shape[1] - WINDOW + 1) + WINDOW - 1)
        band_x, band_y = (np.subtract(planes[:, part], MIDDLE, dtype=dtype, order="C") for planes in (x, y))
        for kind, total in enumerate(_similarity_sums(band_x, band_y, step)):
            totals[kind] += total
    similarity, contrast = totals / (rows * columns)
    return similarity, contrast


def _similarity_sums(x: np.ndarray, y: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over positions for each channel. Values are about 0: so float32 does for variances."""
    mean_x, mean_y = gaussian_means(x, step), gaussian_means(y, step)
    squares, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    variances = gaussian_means(x * x + y * y, step) - squares
    contrast = (2 * (gaussian_means(x * y, step) - product) + C2) / (variances + C2)
    mean_x, mean_y = mean_x + MIDDLE, mean_y + MIDDLE
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (luminance * contrast).sum((1, 2), dtype=np.float64), contrast.sum((1, 2), dtype=np.float64)


def gaussian_means(planes: np.ndarray, step: int = 1) -> np.ndarray:
    """Means by WINDOW and DEVIATION where the window fits, every step-th: (channels, h, w) -> (channels, h - 10, w - 10).

    By products with a banded matrix: faster than sums of shifts. For BAND or so rows; more take longer than in parts.
    """
    rows, columns = (-(-(side - WINDOW + 1) // step) for side in planes.shape[1:])
    high = matrix_product(_taps(rows, planes.shape[1], step, planes.dtype), planes).reshape(-1, planes.shape[2])
    means = np.empty((len(high), columns), planes.dtype)
    for start in range(0, columns, COLUMNS // step):
        stop = min(start + COLUMNS // step, columns)
        part = high[:, start * step : (stop - 1) * step + WINDOW]
        matrix_product(part, _taps(stop - start, part.shape[1], step, planes.dtype).T, out=means[:, start:stop])
    return means.reshape(len(planes), rows, columns)


def matrix_product(left: np.ndarray, right: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """left @ right, of (m, k) and (..., k, n), in parts that are small enough for OpenBLAS, which numpy's wheels have, to make
    them by one thread: more take longer for these, and Python's threads, each with a product, would wait for each other's."""
    (rows, inner), columns = left.shape, right.shape[-1]
    if out is None:
        out = np.empty((*right.shape[:-2], rows, columns), right.dtype)
    if rows * inner * columns <= ONE_THREAD:
        return np.matmul(left, right, out=out)
    if rows > columns:
        step = max(1, ONE_THREAD // (inner * columns))
        for start in range(0, rows, step):
            np.matmul(left[start : start + step], right, out=out[..., start : start + step, :])
    else:
        step = max(1, ONE_THREAD // (inner * rows))
        for start in range(0, columns, step):
            np.matmul(left, right[..., start : start + step], out=out[..., start : start + step])
    return out


@lru_cache(maxsize=128)  # as many as the scales of a few pictures need
def _taps(n: int, length: int, step: int, dtype: "np.dtype[Any]") -> np.ndarray:
    """The matrix (n, length) that takes so many values to the n means, every step-th."""
    matrix = np.zeros((n, length))
    for row in range(n):
        matrix[row, row * step : row * step + WINDOW] = gaussian()
    return matrix.astype(dtype)


@lru_cache(maxsize=1)
def gaussian() -> np.ndarray:
    """The window: float64 (WINDOW,), of sum 1."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    taps = np.exp(-(offsets**2) / (2 * DEVIATION**2))
    return np.asarray(taps / taps.sum())


def halved(planes: np.ndarray) -> np.ndarray:
    """Means of 2x2; an odd side first gets a zero row or column in front, which counts, as in pytorch-msssim."""
    height, width = planes.shape[1:]
    if height % 2 or width % 2:
        planes = np.pad(planes, ((0, 0), (height % 2, 0), (width % 2, 0)))
    rows = planes[:, ::2] + planes[:, 1::2]
    means: np.ndarray = rows[:, :, ::2] + rows[:, :, 1::2]
    means *= 0.25
    return means


def add_halves(fine: np.ndarray, coarse: np.ndarray) -> None:
    """The transpose of halved(): adds to a derivative by the picture what comes from that by its half, which is overwritten."""
    _, height, width = fine.shape
    coarse *= np.float32(0.25)
    wide = np.repeat(coarse, 2, axis=2)[:, :, width % 2 :]
    fine[:, height % 2 :: 2] += wide[:, height % 2 :]
    fine[:, 1 - height % 2 :: 2] += wide


def _check(original: np.ndarray, decoded: np.ndarray, smallest: int, name: str) -> None:
    if original.shape != decoded.shape or original.ndim != 3:
        raise ImageError(f"{name} of {original.shape} and {decoded.shape}: both must be (h, w, channels) of one size")
    if min(original.shape[:2]) < smallest:
        size = f"{original.shape[1]}x{original.shape[0]}"
        raise ImageError(f"{name} needs pictures of at least {smallest}x{smallest} pixels, this is {size}")

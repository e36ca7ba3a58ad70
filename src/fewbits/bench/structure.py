# SPDX-License-Identifier: MIT
"""SSIM and MS-SSIM with numpy and scipy (imported where used): the well-kept libraries for MS-SSIM all need torch.

The definition is that of pytorch-msssim, with which the field's published curves were measured: 11x11 Gaussian window of
deviation 1.5 where it fits entirely, each of R, G, B by itself, then their mean. docs/adr/0008 says why it is ours; a test
compares it with that library and with scikit-image.
"""

import math
from typing import Final

import numpy as np

from fewbits.errors import ImageError

WINDOW: Final = 11
DEVIATION: Final = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik, Asilomar 2003, section 3.2
SMALLEST: Final = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1  # the shorter side that MS-SSIM needs, in pixels


def ssim(original: np.ndarray, decoded: np.ndarray) -> float:
    """Structural similarity (Wang et al., TIP 2004) of two uint8 RGB pictures (h, w, 3), at most 1. Raises ImageError."""
    _check(original, decoded, WINDOW, "SSIM")
    return float(_ssim_and_contrast(original.astype(np.float64), decoded.astype(np.float64))[0].mean())


def ms_ssim(original: np.ndarray, decoded: np.ndarray) -> float:
    """Multi-scale SSIM of two uint8 RGB pictures (h, w, 3), 0 to 1. Raises ImageError, also below 161 pixels a side."""
    _check(original, decoded, SMALLEST, "MS-SSIM")
    x, y = original.astype(np.float64), decoded.astype(np.float64)
    product = np.ones(x.shape[-1])
    for scale, weight in enumerate(WEIGHTS):
        similarity, contrast = _ssim_and_contrast(x, y)
        last = scale == len(WEIGHTS) - 1
        product *= np.maximum(similarity if last else contrast, 0) ** weight
        if not last:
            x, y = _halved(x), _halved(y)
    return float(product.mean())


def decibels(similarity: float) -> float:
    """-10 log10(1 - similarity): the axis on which SSIM and MS-SSIM are compared; inf for equal pictures."""
    return -10 * math.log10(1 - similarity) if similarity < 1 else math.inf


def _ssim_and_contrast(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean SSIM and mean contrast-structure term of each channel, over the positions where the window fits."""
    mean_x, mean_y = _window(x), _window(y)
    variance_x, variance_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    contrast = (2 * covariance + C2) / (variance_x + variance_y + C2)
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (luminance * contrast).mean((0, 1)), contrast.mean((0, 1))


def _window(values: np.ndarray) -> np.ndarray:
    """Gaussian means (h - 10, w - 10, channels)."""
    from scipy.ndimage import correlate1d

    offsets = np.arange(WINDOW) - WINDOW // 2
    taps = np.exp(-(offsets**2) / (2 * DEVIATION**2))
    taps /= taps.sum()
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    rows = correlate1d(values, taps, axis=0)[inside]
    return np.asarray(correlate1d(rows, taps, axis=1)[:, inside])


def _halved(values: np.ndarray) -> np.ndarray:
    """Means of 2x2; an odd side first gets a zero row or column in front, which counts, as in pytorch-msssim."""
    height, width, channels = values.shape
    padded = np.pad(values, ((height % 2,) * 2, (width % 2,) * 2, (0, 0)))[: height + height % 2, : width + width % 2]
    return np.asarray(padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, channels).mean((1, 3)))


def _check(original: np.ndarray, decoded: np.ndarray, smallest: int, name: str) -> None:
    if original.shape != decoded.shape or original.ndim != 3:
        raise ImageError(f"{name} of {original.shape} and {decoded.shape}: both must be (h, w, channels) of one size")
    if min(original.shape[:2]) < smallest:
        size = f"{original.shape[1]}x{original.shape[0]}"
        raise ImageError(f"{name} needs pictures of at least {smallest}x{smallest} pixels, this is {size}")

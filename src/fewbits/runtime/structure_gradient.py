# SPDX-License-Identifier: MIT
"""1 - MS-SSIM with its slope by the decoded picture, and no torch: for an encoder that heeds it.

The definition is that of pytorch-msssim, as in fewbits/structure.py; pictures too small for five scales have fewer. An encoder
asks many times about one original, so what depends on that alone is computed once. What weighs a scale's slope is one number for
each channel, known at the end; so a scale is gone through once, in bands of rows that fit the caches, forth and back together.
"""

from typing import Final

import numpy as np

from fewbits.structure import C1, C2, MIDDLE, WEIGHTS, WINDOW, add_halves, gaussian_means, halved

_BAND: Final = 32  # rows at a time: few enough for the caches
_EDGE: Final = WINDOW - 1  # how many fewer positions than values there are in a row
_C1, _C2 = np.float32(C1), np.float32(C2)


class MsSsimGradient:
    """The distance from one original, and which way it falls."""

    def __init__(self, original: np.ndarray) -> None:
        """original: uint8 sRGB (3, h, w) of any size.

        From structure.SMALLEST on a side all five scales count; of smaller pictures as many as the window fits into, and their
        weights are made to sum to 1. Below WINDOW pixels a side there are none: all pictures are alike.
        """
        side, x = min(original.shape[1:]), original.astype(np.float32)
        self._scales = list[_Scale]()
        while side >= WINDOW and len(self._scales) < len(WEIGHTS):
            if self._scales:
                x = halved(x)
            last = -(-side // 2) < WINDOW or len(self._scales) == len(WEIGHTS) - 1
            self._scales.append(_Scale(x, last))
            side = -(-side // 2)
        weights = np.array(WEIGHTS[: len(self._scales)])
        self._weights = (weights if len(weights) == len(WEIGHTS) else weights / weights.sum())[:, None]

    def __call__(self, decoded: np.ndarray) -> tuple[float, np.ndarray]:
        """Of a decoded picture, uint8 like the original: the distance, 0 for equal ones, and its derivative by values in 0..1,
        float32 (3, h, w). A channel that is nowhere alike at some scale has no slope: that of its power would be infinite."""
        y = decoded.astype(np.float32)
        if not self._scales:
            return 0.0, np.zeros_like(y)
        found = list[np.ndarray](), list[np.ndarray]()
        for number, scale in enumerate(self._scales):
            if number:
                y = halved(y)
            for values, value in zip(found, scale(y), strict=True):
                values.append(value)
        similarities, gradients = np.maximum(found[0], 0), found[1]
        products = (similarities**self._weights).prod(0)
        slopes = np.where(products > 0, products * self._weights / np.where(products > 0, similarities, 1), 0)
        positions = np.array([scale.positions for scale in self._scales])[:, None]
        factors = (-255 / len(products) / positions * slopes).astype(np.float32)[..., None, None]
        gradients[-1] *= factors[-1]
        for number in range(len(gradients) - 2, -1, -1):
            gradients[number] *= factors[number]
            add_halves(gradients[number], gradients[number + 1])
        return float(1 - products.mean()), gradients[0]


class _Scale:
    """Of a picture at one scale, what depends on the original alone: float32, less MIDDLE, so that it does for variances."""

    def __init__(self, x: np.ndarray, last: bool) -> None:
        """x: float32 (channels, h, w), values in 0..255. last: luminance counts, too."""
        self._x, self._last = x - np.float32(MIDDLE), last
        channels, height, width = x.shape
        self._mean, self._variance = np.empty((2, channels, height - _EDGE, width - _EDGE), np.float32)
        for start in range(0, height - _EDGE, _BAND):
            band = self._x[:, start : start + _BAND + _EDGE]
            mean, variance = gaussian_means(np.concatenate([band, band * band])).reshape(2, channels, -1, width - _EDGE)
            self._mean[:, start : start + _BAND], self._variance[:, start : start + _BAND] = mean, variance - mean * mean
        self._variance += _C2
        self.positions = self._mean[0].size

    def __call__(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a decoded picture, float32 (channels, h, w), 0..255: mean similarities (channels,), and derivatives of sums."""
        channels, height, width = y.shape
        gradient, total = np.empty_like(y), np.zeros(channels)
        slopes = np.zeros((3, channels, _BAND + _EDGE, width + _EDGE), np.float32)  # of positions, with zeros around them
        for start in range(0, height, _BAND):
            n_rows = min(_BAND, height - start)
            n_positions = max(min(n_rows, height - _EDGE - start), 0)
            band = y[:, start : start + n_rows + _EDGE] - np.float32(MIDDLE)
            rows = slice(_EDGE, _EDGE + n_positions)
            if n_positions:
                total += self._forth(band, slice(start, start + n_positions), slopes[:, :, rows, _EDGE:-_EDGE])
            slopes[:, :, _EDGE + n_positions :] = 0
            around = slopes[:, :, : n_rows + _EDGE].reshape(-1, n_rows + _EDGE, width + _EDGE)
            by_mean, by_energy, by_product = gaussian_means(around).reshape(3, channels, n_rows, width)
            by_energy *= band[:, :n_rows]
            by_product *= self._x[:, start : start + n_rows]
            by_product += by_energy
            np.add(by_product, by_mean, out=gradient[:, start : start + n_rows])
            slopes[:, :, :_EDGE] = slopes[:, :, n_rows : n_rows + _EDGE]
        return total / self.positions, gradient

    def _forth(self, y: np.ndarray, rows: slice, slopes: np.ndarray) -> np.ndarray:
        """Of y, less MIDDLE, and rows of positions: sums of similarities (channels,), and their derivatives into slopes.

        Of these there are three: by the windows' means of y; by those of y * y, doubled as a square's slope is; of x * y.
        """
        x, mean_x = self._x[:, rows.start : rows.stop + _EDGE], self._mean[:, rows]
        stacked = np.empty((3, *x.shape), np.float32)
        stacked[0] = y
        np.multiply(y, y, out=stacked[1])
        np.multiply(x, y, out=stacked[2])
        mean, energy, product = gaussian_means(stacked.reshape(-1, *x.shape[1:])).reshape(3, *mean_x.shape)
        by_mean, by_energy, by_product = slopes
        energy -= mean * mean
        energy += self._variance[:, rows]
        slope = np.divide(np.float32(2), energy, out=energy)
        product -= mean * mean_x
        product += _C2 / 2
        contrast = np.multiply(product, slope, out=product)
        similarity = contrast
        if self._last:
            luminance, by_light = _luminance(mean, mean_x)
            similarity = contrast * luminance
            slope *= luminance
        by_product[...] = slope
        np.multiply(contrast, slope, out=by_energy)
        np.multiply(by_energy, mean, out=by_mean)
        by_mean -= slope * mean_x
        if self._last:
            by_mean += contrast * by_light
        np.negative(by_energy, out=by_energy)
        total: np.ndarray = similarity.sum((1, 2), dtype=np.float64)
        return total


def _luminance(mean: np.ndarray, mean_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of means less MIDDLE: the luminance term, and its derivative by the first."""
    bright, bright_x = mean + np.float32(MIDDLE), mean_x + np.float32(MIDDLE)
    size = bright * bright + bright_x * bright_x + _C1
    luminance = (2 * bright * bright_x + _C1) / size
    return luminance, 2 * (bright_x - luminance * bright) / size

# SPDX-License-Identifier: MIT
"""What SSIMULACRA 2.1 makes its score of, with its slope by the decoded picture, and no torch: for an encoder that heeds it.

The same numbers as fewbits/families/ssimulacra2.py, which networks are trained with: channels that hardly weigh are left out. An
encoder asks many times about one original, so what depends on that alone is computed once. A norm of fourth powers is known only
when all of a scale has been seen; so each scale is gone through forth and back, in bands of rows that fit the caches.
"""

from typing import Final

import numpy as np

from fewbits.ssimulacra import (
    BAND,
    C2,
    CODES,
    CONES,
    FACTOR,
    LINEAR,
    OFFSETS,
    PAD,
    SLIGHT,
    XYB,
    add_halves,
    cone_roots,
    halved,
    used_cones,
    weights_for,
)
from fewbits.structure import gaussian_means, matrix_product

_TINY: Final = 1e-34  # in the root of a sum of fourth powers, whose slope would be infinite at 0
_SIDE: Final = np.float32(1e-8)  # values are this far from their mean or at it; to divide takes less time than to ask for signs
_SLOPES: Final = np.where(CODES <= 0.04045, 1 / 12.92, 2.4 / 1.055 * ((CODES + 0.055) / 1.055) ** 1.4).astype(np.float32)


class Ssimulacra2Gradient:
    """The distance from one original, and which way it falls."""

    def __init__(self, original: np.ndarray) -> None:
        """original: uint8 sRGB (3, h, w), both sides at least ssimulacra.SMALLEST."""
        weights = weights_for(min(original.shape[1:]))
        weights = FACTOR * weights.reshape(*weights.shape[:2], 2, 3)
        weighty = weights.max((2, 3)) >= FACTOR * SLIGHT  # (3 channels, scales)
        linear, self._scales = np.take(LINEAR, original, mode="clip"), list[_Scale]()
        for scale in range(int(np.flatnonzero(weighty.any(0))[-1]) + 1):
            if scale:
                linear = halved(linear)
            channels = np.flatnonzero(weighty[:, scale])
            self._scales.append(_Scale(linear, channels, weights[channels, scale]))

    def __call__(self, decoded: np.ndarray) -> tuple[float, np.ndarray]:
        """Of a decoded picture, uint8 like the original: the distance, 0 for equal ones, and its derivative by values in 0..1,
        float32 (3, h, w)."""
        linear, total, gradients = np.take(LINEAR, decoded, mode="clip"), 0.0, list[np.ndarray]()
        for number, scale in enumerate(self._scales):
            if number:
                linear = halved(linear)
            distance, gradient = scale(linear)
            total += distance
            gradients.append(gradient)
        for fine, coarse in zip(gradients[-2::-1], gradients[:0:-1], strict=True):
            add_halves(fine, coarse)
        gradient = gradients[0]
        for rows in _bands(decoded.shape[1]):
            gradient[:, rows] *= np.take(_SLOPES, decoded[:, rows], mode="clip")
        return total, gradient


class _Scale:
    """Of a picture at one scale, what depends on the original alone: float32, of n channels."""

    def __init__(self, linear: np.ndarray, channels: np.ndarray, weights: np.ndarray) -> None:
        """linear: RGB, float32 (3, h, w). channels: the weighty ones of X, Y, B. weights (n, 2, 3): of means and 4-norms."""
        self._weights, self._used = weights, used_cones(channels)
        self._mixing, self._offsets = XYB[channels[:, None], self._used], OFFSETS[channels]
        if not len(channels):
            return
        self._x, _ = self._xyb(linear)
        self._mean, self._variance, self._edges = np.empty((3, len(channels), *linear.shape[1:]), np.float32)
        for rows in _bands(linear.shape[1]):
            x = self._x[:, rows.start : rows.stop + 2 * PAD]
            mean, variance = gaussian_means(np.concatenate([x, x * x])).reshape(2, len(x), -1, linear.shape[2])
            variance -= mean * mean
            self._mean[:, rows], self._variance[:, rows] = mean, variance
            self._edges[:, rows] = 1 + np.abs(x[:, PAD:-PAD, PAD:-PAD] - mean)
        self._variance += C2

    def __call__(self, linear: np.ndarray) -> tuple[float, np.ndarray]:
        """Of a decoded picture's linear RGB, float32 (3, h, w): its part of the distance, and the derivative by it."""
        if not len(self._weights):
            return 0.0, np.zeros_like(linear)
        y, roots = self._xyb(linear)
        maps = np.zeros((3, *y.shape), np.float32)
        sums = np.zeros((len(y), 2, 3))
        for rows in _bands(linear.shape[1]):
            sums += self._forth(y, rows, maps)
        means = sums / linear[0].size
        fourth = means[:, 1] + _TINY
        distance = (self._weights[:, 0] * means[:, 0] + self._weights[:, 1] * fourth**0.25).sum()
        factors = np.stack([self._weights[:, 0], self._weights[:, 1] * fourth**-0.75], 1) / linear[0].size
        at_once = np.empty_like(self._mean)
        for rows in _bands(linear.shape[1]):
            self._back(y, rows, maps, factors.astype(np.float32)[..., None, None], at_once)
        _mirror(maps)
        gradient = np.empty_like(linear)
        for rows in _bands(linear.shape[1]):
            gradient[:, rows] = self._by_linear(y, rows, maps, at_once, roots)
        return float(distance), gradient

    def _xyb(self, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The channels with their borders, (n, h + 2 * PAD, w + 2 * PAD), and the cube roots that they are made of, (k, h, w)."""
        _, height, width = linear.shape
        padded = np.zeros((len(self._mixing), height + 2 * PAD, width + 2 * PAD), np.float32)
        roots = np.empty((len(self._used), height, width), np.float32)
        for rows in _bands(height):
            found = cone_roots(linear[:, rows], self._used)
            xyb = matrix_product(self._mixing, found).reshape(len(padded), -1, width)
            np.add(xyb, self._offsets, out=padded[:, PAD + rows.start : PAD + rows.stop, PAD:-PAD])
            roots[:, rows] = found.reshape(len(roots), -1, width)
        _mirror(padded)
        return padded, roots

    def _forth(self, y: np.ndarray, rows: slice, maps: np.ndarray) -> np.ndarray:
        """Fills rows of maps: means of y - x, structure terms and variances. Gives sums, as the weights are ordered.

        As in ssimulacra.py the structure term is a variance of y - x, which is 0 where they are equal.
        """
        around = slice(rows.start, rows.stop + 2 * PAD)
        stacked = np.empty((3, *y[:, around].shape), np.float32)
        np.subtract(y[:, around], self._x[:, around], out=stacked[0])
        np.multiply(stacked[0], stacked[0], out=stacked[1])
        np.multiply(y[:, around], y[:, around], out=stacked[2])
        means = gaussian_means(stacked.reshape(-1, *stacked.shape[2:])).reshape(3, *self._mean[:, rows].shape)
        apart, structure, variances = means
        shift = apart * apart
        structure -= shift
        mean = apart + self._mean[:, rows]
        edges = self._edges_beside(y, rows, mean)[0]
        mean *= mean
        variances -= mean
        variances += self._variance[:, rows]
        structure /= variances
        _inner(maps, rows)[...] = means
        error = _error(shift, structure)
        gained = np.maximum(edges, np.float32(0))
        lost = np.subtract(gained, edges, out=edges)
        sums = np.empty((len(y), 2, 3))
        for kind, values in enumerate((error, gained, lost)):
            flat = values.reshape(len(y), -1)
            sums[:, 0, kind] = flat.sum(1)
            flat *= flat
            sums[:, 1, kind] = np.einsum("ij,ij->i", flat, flat)
        return sums

    def _back(self, y: np.ndarray, rows: slice, maps: np.ndarray, factors: np.ndarray, at_once: np.ndarray) -> None:
        """Puts derivatives in the place of maps: by windows' means of y - x, of its squares and of y's, doubled as slopes are.

        factors (n, 2, 3, 1, 1): of 1 and of cubes in the derivatives by errors, edges gained and lost. at_once: what comes to a
        pixel through no window.
        """
        apart, structure, variances = _inner(maps, rows)
        shift = apart * apart
        mean = apart + self._mean[:, rows]
        slope = _error(shift, structure)
        slope *= slope * slope * factors[:, 1, 0]
        slope += factors[:, 0, 0]
        squares = np.subtract(1, shift, out=shift)
        squares *= slope
        squares /= variances
        energies = squares * structure
        slope -= slope * structure
        slope -= squares
        slope *= apart

        edges, beside = self._edges_beside(y, rows, mean)
        signs = np.divide(beside, np.abs(beside) + _SIDE, out=beside)
        signs /= self._edges[:, rows]
        lost = np.minimum(edges, np.float32(0))
        gained = np.subtract(edges, lost)
        by_edges = gained * gained * gained * factors[:, 1, 1]
        by_edges += lost * lost * lost * factors[:, 1, 2]
        if factors[:, 0, 1:].any():
            by_edges += (edges > 0) * factors[:, 0, 1]
            by_edges -= (edges < 0) * factors[:, 0, 2]
        by_edges *= signs
        at_once[:, rows] = by_edges

        mean *= energies
        slope += mean
        slope *= 2
        np.subtract(slope, by_edges, out=apart)
        np.multiply(squares, 2, out=structure)
        np.multiply(energies, -2, out=variances)

    def _edges_beside(self, y: np.ndarray, rows: slice, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Edges of y by those of x, less 1; and how far y is from its mean."""
        beside = y[:, PAD + rows.start : PAD + rows.stop, PAD:-PAD] - mean
        edges = np.abs(beside)
        edges += 1
        edges /= self._edges[:, rows]
        edges -= 1
        return edges, beside

    def _by_linear(self, y: np.ndarray, rows: slice, maps: np.ndarray, at_once: np.ndarray, roots: np.ndarray) -> np.ndarray:
        """The derivative by rows of linear RGB, (3, rows, w). A window that sees mirror images and zeros is its own transpose."""
        around = maps[:, :, rows.start : rows.stop + 2 * PAD]
        by_y, squares, energies = gaussian_means(around.reshape(-1, *around.shape[2:])).reshape(3, *self._mean[:, rows].shape)
        inner = y[:, PAD + rows.start : PAD + rows.stop, PAD:-PAD]
        apart = inner - self._x[:, PAD + rows.start : PAD + rows.stop, PAD:-PAD]
        by_y += at_once[:, rows]
        by_y += np.multiply(squares, apart, out=squares)
        by_y += np.multiply(energies, inner, out=energies)
        cones = np.einsum("nk,np->kp", self._mixing, by_y.reshape(len(by_y), -1))  # a product is slow where n is 1
        found = roots[:, rows].reshape(len(roots), -1)
        cones /= found * found
        # The slope of a cube root is a third of its square's inverse.
        by_rgb: np.ndarray = matrix_product(CONES[self._used].T / 3, cones)
        return by_rgb.reshape(3, *by_y.shape[1:])


def _error(shift: np.ndarray, structure: np.ndarray) -> np.ndarray:
    """1 - (1 - structure) * (1 - shift), from 0 on."""
    error: np.ndarray = 1 - structure
    error *= shift
    error += structure
    np.maximum(error, np.float32(0), out=error)
    return error


def _bands(height: int) -> list[slice]:
    return [slice(start, min(start + BAND, height)) for start in range(0, height, BAND)]


def _inner(padded: np.ndarray, rows: slice) -> np.ndarray:
    """A view of rows of a picture (..., h, w) without its borders."""
    return padded[..., PAD + rows.start : PAD + rows.stop, PAD:-PAD]


def _mirror(padded: np.ndarray) -> None:
    """Makes the borders above and below mirror images of what is within."""
    padded[..., :PAD, :] = padded[..., 2 * PAD - 1 : PAD - 1 : -1, :]
    padded[..., -PAD:, :] = padded[..., -PAD - 1 : -2 * PAD - 1 : -1, :]

# SPDX-License-Identifier: MIT
"""What errors of a picture are worth in bits, by each value that synthesis reads: slope and curvature, for refine.py.

Squared errors are summed up in the gradient's own graph. What eyes see, MS-SSIM and SSIMULACRA 2, has a slope by each pixel,
which that graph takes back through synthesis (ADR 34, 35).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from fewbits.errors import ModelError
from fewbits.runtime.bundle import PIXELS
from fewbits.runtime.engines import Network
from fewbits.runtime.latents import STRIDE
from fewbits.runtime.ssimulacra_gradient import Ssimulacra2Gradient
from fewbits.runtime.structure_gradient import MsSsimGradient
from fewbits.ssimulacra import SMALLEST
from fewbits.stages import stage
from fewbits.structure import WINDOW
from fewbits.threads import beside

PROBE: Final = 1e6  # times what is sent back through synthesis, beside which x_hat, which the graph takes from it, is nothing
SQUARES: Final = "mse"
STRUCTURE: Final = "ms-ssim"
SCORE: Final = "ssimulacra2"
TERMS: Final = (SQUARES, STRUCTURE, SCORE)  # of a distortion, as families/losses.py has them
SQUARES_CURVATURE: Final = 2 * 255**2 / 3  # of a pixel's mean squared error in levels, by one of its values in 0..1
MOST_WORTH: Final = 1e6  # of a distortion beside bits, and of its terms
STEADY: Final = 0.3  # how much of the patch's mean is mixed into what is measured block by block, which is noisy
LEAST: Final = 0.3  # of that mean, the least curvature of a block, as the distortion may be hollow there


def checked_terms(terms: Mapping[str, Any]) -> dict[str, float]:
    """The weights of TERMS in a distortion. Raises ValueError, and what comes of other things where numbers should be."""
    found = {name: float(value) for name, value in terms.items()}
    if not found or not set(found) <= set(TERMS) or not all(0 < value < MOST_WORTH for value in found.values()):  # false of NaN
        what = f"weights above 0 and below {MOST_WORTH:g} of {', '.join(TERMS)}"
        raise ValueError(f"effort in the card, of which terms is {terms!r} and must be {what},")
    return found


class Networks(NamedTuple):
    """gradient: of training/gradient.py. synthesis: gives the one that decoders have, of pixels; loaded where it is needed."""

    gradient: Network
    synthesis: Callable[[], Network]


class Errors(Protocol):
    """Of a patch, whose y_hat is float32 (1, channels, rows, columns), as slope and curvature are."""

    shaken: float  # the share of symbols that curvature wants to see moved: few, as those close by would bend it together
    blind: bool  # whether nothing can be told of so small a patch

    def slope(self, y_hat: np.ndarray) -> np.ndarray:
        """Bits by each value. Raises ModelError."""
        ...

    def slope_and_curvature(
        self, y_hat: np.ndarray, shaken: np.ndarray, lots: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The curvature is taken as if it were a channel's times a place's. Raises ModelError.

        shaken: y_hat with some of its symbols moved by one.
        """
        ...


class SquaredErrors:
    """Of x_hat to the picture."""

    shaken, blind = 0.0, False

    def __init__(self, network: Network, inputs: Mapping[str, np.ndarray], target: np.ndarray, weight: np.ndarray) -> None:
        """network: of training/gradient.py. inputs: those of synthesis but y_hat. target, weight float32 (1, 192, 2 rows,
        2 columns): the picture as analysis reads it, and what squared errors of values in 0..1 are worth in bits, times 2."""
        self._network, self._inputs, self._target, self._weight = network, inputs, target, weight

    def slope(self, y_hat: np.ndarray) -> np.ndarray:
        return _through_synthesis(self._network, y_hat, self._inputs, self._target, self._weight)

    def slope_and_curvature(
        self, y_hat: np.ndarray, shaken: np.ndarray, lots: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.slope(y_hat), _parted(_probed(self._network, y_hat, self._inputs, self._weight, lots))


class SeenErrors:
    """Of the pixels that a decoder would show: a sum of squared errors, 1 - MS-SSIM, and what SSIMULACRA 2 makes its score of."""

    shaken = 0.2

    def __init__(
        self,
        networks: Networks,
        inputs: Mapping[str, np.ndarray],
        pixels: np.ndarray,
        worth: np.ndarray,
        terms: Mapping[str, float],
    ) -> None:
        """inputs: those of synthesis but y_hat. pixels uint8 (height, width, 3): of the picture, without what is beyond it. worth
        float32 (height, width): of the distortion beside bits, both of a pixel, by place. terms: the weights of TERMS in the
        distortion; those that are for larger pictures are left out."""
        self._network, self._synthesis, self._inputs = networks.gradient, networks.synthesis(), inputs
        self._original = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        self._worth, self._terms = worth, terms
        self._structure = MsSsimGradient(self._original) if terms.get(STRUCTURE) else None
        self.blind = not terms.get(SQUARES) and min(worth.shape) < (SMALLEST if terms.get(SCORE) else WINDOW)
        self._score = Ssimulacra2Gradient(self._original) if terms.get(SCORE) and min(worth.shape) >= SMALLEST else None

    def slope(self, y_hat: np.ndarray) -> np.ndarray:
        return self._back(y_hat, self._by_pixel(self._shown(y_hat)))

    def slope_and_curvature(
        self, y_hat: np.ndarray, shaken: np.ndarray, lots: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """By how the slope changes, block by block, where the moved symbols change pixels."""
        first, second = self._shown(y_hat), self._shown(shaken)
        by_pixel, apart = self._by_pixel(first), (second.astype(np.float32) - first) / 255
        bent, energy = _in_blocks((apart * (self._by_pixel(second) - by_pixel)).sum(0)), _in_blocks((apart * apart).sum(0))
        of_squares = float(self._worth.mean()) * self._terms.get(SQUARES, 0) * SQUARES_CURVATURE
        mean = max(float(bent.sum()) / max(float(energy.sum()), 1e-12), of_squares, 1e-6)
        steady = STEADY * max(float(energy.mean()), 1e-12)
        by_block = np.maximum((bent + steady * mean) / (energy + steady), LEAST * mean)
        height, width = self._worth.shape
        by_place = by_block.astype(np.float32).repeat(STRIDE, 0).repeat(STRIDE, 1)[:height, :width]
        weight = as_blocks(np.broadcast_to(by_place, (3, height, width)), y_hat.shape[2:])
        squares = _probed(self._network, y_hat, self._inputs, weight, lots)
        return self._back(y_hat, by_pixel), _parted(squares, smooth=True)

    def _shown(self, y_hat: np.ndarray) -> np.ndarray:
        """uint8 (3, height, width)."""
        shown, expected = self._synthesis(PIXELS, y_hat=y_hat, **self._inputs), (*(STRIDE * n for n in y_hat.shape[2:]), 3)
        if shown.shape != expected or shown.dtype != np.uint8:
            raise ModelError(f"network synthesis gives {shown.dtype} {shown.shape}, effort needs uint8 {expected}")
        height, width = self._worth.shape
        return np.ascontiguousarray(shown[:height, :width].transpose(2, 0, 1))

    @stage("seeing")
    def _by_pixel(self, decoded: np.ndarray) -> np.ndarray:
        """Bits by each of the pixels, as values in 0..1: float32 (3, height, width)."""
        score = beside(partial(self._score, decoded)) if self._score else None
        total = decoded.astype(np.float32)
        total -= self._original
        total *= np.float32(self._terms.get(SQUARES, 0) * SQUARES_CURVATURE / 255)
        n_pixels = self._worth.size
        if self._structure:
            total += self._structure(decoded)[1] * np.float32(self._terms[STRUCTURE] * n_pixels)
        if score:
            total += score()[1] * np.float32(self._terms[SCORE] * n_pixels)
        total *= self._worth
        return total

    def _back(self, y_hat: np.ndarray, by_pixel: np.ndarray) -> np.ndarray:
        """Bits by each value of y_hat."""
        size = max(float(np.abs(by_pixel).max(initial=0)), 1e-30)
        target = as_blocks(by_pixel, y_hat.shape[2:]) * np.float32(-PROBE / size)
        weight = as_blocks(np.full_like(by_pixel, size / PROBE), y_hat.shape[2:])
        return _through_synthesis(self._network, y_hat, self._inputs, target, weight)


def as_blocks(planes: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Planes float32 (3, height, width) in blocks of 8x8, as analysis reads them: (1, 192, 2 rows, 2 columns) of a latent grid.
    What is beyond the planes is 0."""
    rows, columns = (2 * side for side in grid)
    whole = np.zeros((3, 8 * rows, 8 * columns), np.float32)
    whole[:, : planes.shape[1], : planes.shape[2]] = planes
    return whole.reshape(3, rows, 8, columns, 8).transpose(0, 2, 4, 1, 3).reshape(1, 192, rows, columns)


def _through_synthesis(
    network: Network, y_hat: np.ndarray, inputs: Mapping[str, np.ndarray], target: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """By y_hat the derivative of weight * (x_hat - target)**2 / 2: float32 like it. Raises ModelError."""
    found = network(y_hat=y_hat, target=target, weight=weight, **inputs)
    if found.shape != y_hat.shape or found.dtype != np.float32:
        raise ModelError(f"network gradient gives {found.dtype} {found.shape}, it must be float32 {y_hat.shape}")
    return found


def _probed(
    network: Network, y_hat: np.ndarray, inputs: Mapping[str, np.ndarray], weight: np.ndarray, lots: np.random.Generator
) -> np.ndarray:
    """The squares of J^T u, u of independent signs times the weight's root: on average those of J's columns (Hutchinson)."""
    signs = (2 * lots.integers(0, 2, weight.shape, np.int8) - 1).astype(np.float32)
    probe = signs * np.float32(PROBE), np.sqrt(weight) / np.float32(PROBE)
    return _through_synthesis(network, y_hat, inputs, *probe) ** 2


def _parted(squares: np.ndarray, *, smooth: bool = False) -> np.ndarray:
    """As if they were a channel's times a place's, smooth: of means of 3x3 places."""
    of_channel = squares.mean((2, 3), keepdims=True)
    of_place = (squares / np.maximum(of_channel, 1e-30)).mean(1, keepdims=True)
    if smooth:
        padded = np.pad(of_place, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        rows, columns = of_place.shape[2:]
        of_place = sum(padded[:, :, k : k + rows, j : j + columns] for k in range(3) for j in range(3)) / 9
    found: np.ndarray = of_channel * of_place
    return found


def _in_blocks(plane: np.ndarray) -> np.ndarray:
    """Sums of (height, width) by latent position, of those that lie beyond the picture what there is."""
    rows, columns = (-(-side // STRIDE) for side in plane.shape)
    sums = np.add.reduceat(plane, np.arange(0, rows * STRIDE, STRIDE), axis=0)
    return np.asarray(np.add.reduceat(sums, np.arange(0, columns * STRIDE, STRIDE), axis=1))

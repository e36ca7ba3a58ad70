# SPDX-License-Identifier: MIT
"""What SSIMULACRA 2.1 (Sneyers 2022) makes its score of, with a gradient: a distortion to train with.

The numpy version (fewbits/ssimulacra.py) measures and has the constants; here everything is differentiable, of a batch, and
left out is what hardly weighs in the score. Pictures are sRGB in 0..1, (b, 3, h, w).
"""

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fewbits.ssimulacra import BIAS, C2, CONES, FACTOR, OFFSETS, SLIGHT, XYB, weights_for
from fewbits.structure import WINDOW, gaussian

_SMALL: Final = 1e-9  # under a cube root, whose slope would be infinite at 0
_TINY: Final = 1e-34  # likewise, where equal pictures are to have 0


def distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """(b,): 0 for equal pictures, 1.31 at a score of 80, 2.53 at 70, 5.89 at 50, 13.34 at 20. Sides from SMALLEST on."""
    weights = weights_for(min(x.shape[-2:]))
    weights = weights.reshape(*weights.shape[:2], 2, 3)  # of means and 4-norms
    scales = weights.shape[1]
    total = x.new_zeros(len(x))
    pair = [_linear(picture.contiguous()) for picture in (x, x_hat)]
    for scale in range(scales):
        channels = np.flatnonzero(weights[:, scale].max((1, 2)) >= SLIGHT)
        if len(channels):
            first, second = (_xyb(picture, channels) for picture in pair)
            total = total + _errors(first, second, x.new_tensor(weights[channels, scale]))
        if scale < scales - 1:
            pair = [F.avg_pool2d(picture, 2, ceil_mode=True, count_include_pad=False) for picture in pair]
    return total * FACTOR


def _linear(x: Tensor) -> Tensor:
    """sRGB -> linear light. Beyond 0..1 as at its ends, but with a gradient that leads back."""
    x = x + (x.clamp(0, 1) - x).detach()
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def _xyb(linear: Tensor, channels: np.ndarray) -> Tensor:
    """The channels asked for of X, Y, B: (b, n, h, w)."""
    cones = torch.einsum("ij,bjhw->bihw", linear.new_tensor(CONES), linear) + BIAS
    xyb = torch.einsum("ij,bjhw->bihw", linear.new_tensor(XYB[channels]), cones.clamp(min=_SMALL) ** (1 / 3))
    return xyb + linear.new_tensor(OFFSETS[channels])


def _errors(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Weighted norms of the errors, of edges gained and edges lost of a scale: (b,). weights (n, 2, 3): of means and 4-norms."""
    apart = y - x
    means = [_gaussian_means(planes) for planes in (x, apart, x * x + y * y, apart * apart)]
    mean_x, mean_apart, energy, structure = means
    mean_y, shift = mean_x + mean_apart, mean_apart.square()
    structure = (structure - shift) / (energy - mean_x.square() - mean_y.square() + float(C2))
    error = F.relu(1 - (1 - structure) * (1 - shift))
    edges = (1 + (y - mean_y).abs()) / (1 + (x - mean_x).abs()) - 1
    maps = torch.stack([error, F.relu(edges), F.relu(-edges)], dim=2)  # (b, n, 3, h, w)
    norms = torch.stack([maps.mean((3, 4)), (maps.square().square().mean((3, 4)) + _TINY) ** 0.25], dim=2)
    return (norms * weights).sum((1, 2, 3))


def _gaussian_means(planes: Tensor) -> Tensor:
    """With zeros beyond left and right and mirror images above and below, as the reference has it.

    By products with two matrices: on a CPU a convolution of each plane by itself takes several times as long.
    """
    rows, columns = planes.shape[2:]
    return planes.new_tensor(_taps(rows, True)) @ planes @ planes.new_tensor(_taps(columns, False)).T


@lru_cache(maxsize=32)
def _taps(side: int, mirrored: bool) -> np.ndarray:
    """The matrix (side, side) of the Gaussian means of a row."""
    matrix = np.zeros((side, side))
    for row in range(side):
        for column, tap in enumerate(gaussian(), row - WINDOW // 2):
            seen = max(-1 - column, min(column, 2 * side - 1 - column)) if mirrored else column
            if 0 <= seen < side:
                matrix[row, seen] += tap
    return matrix.astype(np.float32)

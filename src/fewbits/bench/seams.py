# SPDX-License-Identifier: MIT
"""Whether the borders of tiles or blocks can be told from the rest of a decoded picture."""

import numpy as np


def border_excess(original: np.ndarray, decoded: np.ndarray, period_px: int, stride_px: int) -> float:
    """How much steeper the coding error is across the borders of a grid than elsewhere, as a ratio; 1 is no seam.

    The mean magnitude of the error's difference between two neighbours, where a multiple of `period_px` lies between them,
    over that where another multiple of `stride_px` does: a transform of that stride has edges of its own, which are not asked
    for here. Both uint8 (h, w, channels); period_px is a multiple of stride_px, and smaller than a side. Raises ValueError.
    """
    if period_px % stride_px or period_px <= stride_px or period_px >= max(original.shape[:2]):
        raise ValueError(f"period {period_px} must be a multiple of the stride {stride_px}, and smaller than a side")
    error = decoded.astype(np.float64) - original
    at_borders: list[float] = []
    elsewhere: list[float] = []
    for axis in (0, 1):
        steps = np.abs(np.diff(error, axis=axis)).mean((1 - axis, 2))  # steps[k] lies between k and k + 1
        for place in range(stride_px, error.shape[axis], stride_px):
            (elsewhere if place % period_px else at_borders).append(float(steps[place - 1]))
    return float(np.mean(at_borders) / np.mean(elsewhere))

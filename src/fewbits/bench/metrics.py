# SPDX-License-Identifier: MIT
"""How near a decoded picture is to the original. Needs numpy only."""

import numpy as np


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 arrays of one shape, as a rule RGB (h, w, 3).

    The mean square error is taken over the channels together; inf where the arrays are equal. Raises ValueError.
    """
    if original.dtype != np.uint8 or decoded.dtype != np.uint8 or original.shape != decoded.shape:
        raise ValueError(
            f"{original.dtype} {original.shape} and {decoded.dtype} {decoded.shape}: both must be uint8 of one shape"
        )
    error = np.square(original.astype(np.int32) - decoded).mean(dtype=np.float64)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")

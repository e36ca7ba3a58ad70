# SPDX-License-Identifier: MIT
"""How near a decoded picture is to the original, for targets of quality and for the bench, which has more such metrics.

Every function takes two uint8 RGB arrays (h, w, 3) and gives a float. SSIM and MS-SSIM are in structure.py.
"""

import math

import numpy as np

from fewbits import ssimulacra
from fewbits.errors import ImageError


def mse(original: np.ndarray, decoded: np.ndarray) -> float:
    """Mean square error over all values of two uint8 arrays of one shape, in squared steps of 0-255. Raises ImageError."""
    check_alike(original, decoded)
    return float(np.square(original.astype(np.int32) - decoded).mean(dtype=np.float64))


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 arrays of one shape, as a rule RGB (h, w, 3).

    The mean square error is taken over the channels together; inf where the arrays are equal. Raises ImageError.
    """
    return psnr_of(mse(original, decoded))


def ssimulacra2(original: np.ndarray, decoded: np.ndarray) -> float:
    """SSIMULACRA 2.1 (Sneyers 2022): 100 is equal, 90 visually lossless, 70 high, 50 medium quality, 30 low.

    Raises ImageError.
    """
    check_alike(original, decoded)
    if min(original.shape[:2]) < ssimulacra.SMALLEST:
        raise ImageError(f"SSIMULACRA2 needs pictures of at least 8x8 pixels, this is {original.shape[1]}x{original.shape[0]}")
    return ssimulacra.score(original, decoded)


def psnr_of(error: float) -> float:
    """Mean square error -> PSNR in dB."""
    return 10 * math.log10(255**2 / error) if error else math.inf


def check_alike(original: np.ndarray, decoded: np.ndarray) -> None:
    """Raises ImageError where the two are not uint8 of one shape."""
    if original.dtype != np.uint8 or decoded.dtype != np.uint8 or original.shape != decoded.shape:
        raise ImageError(
            f"{original.dtype} {original.shape} and {decoded.dtype} {decoded.shape}: both must be uint8 of one shape"
        )

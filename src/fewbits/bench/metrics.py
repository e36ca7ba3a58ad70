# SPDX-License-Identifier: MIT
"""How near a decoded picture is to the original: the table of metrics. Importing it needs numpy only.

Every metric takes two uint8 RGB arrays (h, w, 3) and gives a float. Curves are made of means over pictures, put on an axis
that rises with quality (`Metric.axis`), so that all are drawn and compared alike.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from fewbits.bench.structure import decibels, ms_ssim, ssim
from fewbits.errors import ImageError
from fewbits.picture import LUMA


def mse(original: np.ndarray, decoded: np.ndarray) -> float:
    """Mean square error over all values of two uint8 arrays of one shape, in squared steps of 0-255. Raises ImageError."""
    _check(original, decoded)
    return float(np.square(original.astype(np.int32) - decoded).mean(dtype=np.float64))


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 arrays of one shape, as a rule RGB (h, w, 3).

    The mean square error is taken over the channels together; inf where the arrays are equal. Raises ImageError.
    """
    return _psnr_of(mse(original, decoded))


def psnr_y(original: np.ndarray, decoded: np.ndarray) -> float:
    """PSNR in dB of BT.601 luma, not rounded to integers. Raises ImageError."""
    _check(original, decoded)
    return _psnr_of(float(np.square((original.astype(np.float64) - decoded) @ np.array(LUMA)).mean()))


def ssimulacra2(original: np.ndarray, decoded: np.ndarray) -> float:
    """SSIMULACRA 2.1 (Sneyers 2022) by the package of that name: 100 is equal, 90 visually lossless, 70 high, 50 medium
    quality, 30 low. Raises ImageError."""
    from ssimulacra2 import compute_ssimulacra2

    _check(original, decoded)
    if min(original.shape[:2]) < 8:
        raise ImageError(f"SSIMULACRA2 needs pictures of at least 8x8 pixels, this is {original.shape[1]}x{original.shape[0]}")
    files = [io.BytesIO() for _ in range(2)]  # the package reads files: uncompressed ones in memory
    for file, pixels in zip(files, (original, decoded), strict=True):
        Image.fromarray(pixels).save(file, "PPM")
        file.seek(0)
    return float(compute_ssimulacra2(*files))


def lpips(original: np.ndarray, decoded: np.ndarray) -> float:
    """LPIPS (Zhang et al., CVPR 2018), AlexNet, version 0.1; 0 is equal. Needs torch and weights: see fewbits.bench.lpips."""
    from fewbits.bench.lpips import installed_lpips

    _check(original, decoded)
    return installed_lpips().distance(original, decoded)


@dataclass(frozen=True)
class Metric:
    """name: of the table's column. axis: mean over pictures -> what curves show, which rises with quality; axis_label, unit:
    of that. level: qualities on that axis at which file sizes are compared. smallest_px: the shorter side that it needs."""

    name: str
    label: str
    unit: str
    measure: Callable[[np.ndarray, np.ndarray], float]
    axis: Callable[[float], float] = float
    levels: tuple[float, ...] = ()
    smallest_px: int = 1


def _psnr_of(error: float) -> float:
    return 10 * math.log10(255**2 / error) if error else math.inf


METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric("mse", "PSNR of the mean MSE", "dB", mse, _psnr_of),
        Metric("psnr", "PSNR (RGB)", "dB", psnr, levels=(30.0, 35.0)),
        Metric("psnr_y", "PSNR (luma)", "dB", psnr_y, levels=(30.0, 35.0)),
        Metric("ssim", "SSIM", "dB", ssim, decibels, smallest_px=11),
        Metric("ms_ssim", "MS-SSIM", "dB", ms_ssim, decibels, levels=(12.0, 16.0), smallest_px=161),
        Metric("ssimulacra2", "SSIMULACRA2", "", ssimulacra2, levels=(50.0, 70.0), smallest_px=8),
        Metric(
            "lpips", "LPIPS", "dB", lpips, lambda distance: -10 * math.log10(distance) if distance else math.inf, smallest_px=32
        ),
    )
}
DEFAULT_METRICS: Final = ("psnr", "psnr_y", "ms_ssim", "ssimulacra2")
DECIBEL_COLUMNS: Final = {"ssim": "ssim_db", "ms_ssim": "ms_ssim_db"}  # tables have them beside the plain value


def measure(names: Sequence[str], original: np.ndarray, decoded: np.ndarray) -> dict[str, float | None]:
    """The named metrics of one picture, those in dB beside the plain ones; None where the picture is too small for one."""
    values: dict[str, float | None] = {}
    for name in names:
        metric = METRICS[name]
        values[name] = metric.measure(original, decoded) if min(original.shape[:2]) >= metric.smallest_px else None
        if name in DECIBEL_COLUMNS:
            plain = values[name]
            values[DECIBEL_COLUMNS[name]] = None if plain is None else decibels(plain)
    return values


def on_axis(name: str, value: float | None) -> float | None:
    """One picture's metric as curves show it: MS-SSIM in dB, for example."""
    return None if value is None else METRICS[name].axis(value)


def columns(names: Sequence[str]) -> tuple[str, ...]:
    """The columns that measure() gives for the named metrics."""
    return tuple(column for name in names for column in (name, DECIBEL_COLUMNS.get(name)) if column)


def _check(original: np.ndarray, decoded: np.ndarray) -> None:
    if original.dtype != np.uint8 or decoded.dtype != np.uint8 or original.shape != decoded.shape:
        raise ImageError(
            f"{original.dtype} {original.shape} and {decoded.dtype} {decoded.shape}: both must be uint8 of one shape"
        )

# SPDX-License-Identifier: MIT
"""How near a decoded picture is to the original: the table of metrics. Importing it needs numpy only.

Every metric takes two uint8 RGB arrays (h, w, 3) and gives a float. Curves are made of means over pictures, put on an axis
that rises with quality (`Metric.axis`), so that all are drawn and compared alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fewbits.fidelity import check_alike, mse, psnr, psnr_of, ssimulacra2
from fewbits.picture import LUMA
from fewbits.structure import decibels, ms_ssim, ssim


def psnr_y(original: np.ndarray, decoded: np.ndarray) -> float:
    """PSNR in dB of BT.601 luma, not rounded to integers. Raises ImageError."""
    check_alike(original, decoded)
    return psnr_of(float(np.square((original.astype(np.float64) - decoded) @ np.array(LUMA)).mean()))


def lpips(original: np.ndarray, decoded: np.ndarray) -> float:
    """LPIPS (Zhang et al., CVPR 2018), AlexNet, version 0.1; 0 is equal. Needs torch and weights: see fewbits.bench.lpips."""
    from fewbits.bench.lpips import installed_lpips

    check_alike(original, decoded)
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


METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric("mse", "PSNR of the mean MSE", "dB", mse, psnr_of),
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

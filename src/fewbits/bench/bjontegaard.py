# SPDX-License-Identifier: MIT
"""Rate-distortion curves compared: Bjontegaard's delta rate with Akima interpolation, and where curves cross.

Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001; Akima's piecewise cubics in place
of one cubic, since they follow the points and do not swing between them. Pure: numpy and scipy, no files.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.interpolate import Akima1DInterpolator

MIN_POINTS: Final = 4  # as many as a cubic needs
GRID_POINTS: Final = 4096  # of the grid on which curves are compared: under 0.1 % of rate a step over a range of 1 to 50


class Curve(NamedTuple):
    """One codec at several settings: bits per pixel, and PSNR in dB. Both rise strictly; whoever uses a curve checks it."""

    bpp: Sequence[float]
    psnr: Sequence[float]


BppRange = tuple[float, float]
EVERYTHING: Final[BppRange] = (0.0, float("inf"))


def rate_change(anchor: Curve, test: Curve, bpp_range: BppRange = EVERYTHING) -> float:
    """By how many percent `test` needs more bits than `anchor` at equal PSNR, on average; negative where it needs fewer.

    bpp_range: only where both curves' rates lie inside; the average is over the PSNR that is left. Raises ValueError where
    nothing is left, and on curves that have fewer than four points or do not strictly rise.
    """
    log_rates = [_interpolated(psnr, log_bpp) for log_bpp, psnr in map(_checked, (anchor, test))]
    spans = [_psnr_span(log_rate, bpp_range) for log_rate in log_rates]
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    if not low < high:
        raise ValueError(f"the curves have no PSNR in common at {_text(bpp_range)}: the spans in dB are {spans}")
    mean_anchor, mean_test = (float(log_rate.integrate(low, high)) / (high - low) for log_rate in log_rates)
    return float(100 * np.expm1(mean_test - mean_anchor))


def psnr_gap(anchor: Curve, test: Curve, bpp_range: BppRange = EVERYTHING) -> tuple[np.ndarray, np.ndarray]:
    """Bits per pixel on a fine grid over the rates that both curves have within `bpp_range`, and there the PSNR of `test`
    less that of `anchor` in dB. Raises ValueError as rate_change does."""
    (log_anchor, psnr_anchor), (log_test, psnr_test) = _checked(anchor), _checked(test)
    low, high = np.clip([max(log_anchor[0], log_test[0]), min(log_anchor[-1], log_test[-1])], *_log(bpp_range))
    if not low < high:
        raise ValueError(f"the curves have no rate in common at {_text(bpp_range)}")
    grid = np.linspace(low, high, GRID_POINTS)
    gap = _interpolated(log_test, psnr_test)(grid) - _interpolated(log_anchor, psnr_anchor)(grid)
    return np.exp(grid), np.asarray(gap)


def crossings(anchor: Curve, test: Curve, bpp_range: BppRange = EVERYTHING) -> list[float]:
    """The bits per pixel at which one curve goes from above the other to below it, rising; none where the list is empty.

    Touching is not crossing. See psnr_gap for where is looked and what is raised.
    """
    bpp, gap = psnr_gap(anchor, test, bpp_range)
    apart = np.flatnonzero(gap)
    before = np.flatnonzero(np.diff(np.sign(gap[apart])))
    left, right = apart[before], apart[before + 1]
    weight = gap[left] / (gap[left] - gap[right])
    return [float(rate) for rate in bpp[left] * (bpp[right] / bpp[left]) ** weight]


def _checked(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Log rates and PSNRs as float64. Raises ValueError."""
    bpp, psnr = np.asarray(curve.bpp, np.float64), np.asarray(curve.psnr, np.float64)
    if bpp.shape != psnr.shape or bpp.ndim != 1 or len(bpp) < MIN_POINTS:
        raise ValueError(
            f"a curve needs at least {MIN_POINTS} points and as many rates as PSNRs, not {bpp.shape} and {psnr.shape}"
        )
    if not (np.isfinite([bpp, psnr]).all() and bpp[0] > 0 and (np.diff(bpp) > 0).all() and (np.diff(psnr) > 0).all()):
        raise ValueError(f"rate and PSNR must be finite and rise strictly from point to point: {bpp.tolist()}, {psnr.tolist()}")
    return np.log(bpp), psnr


def _interpolated(x: np.ndarray, y: np.ndarray) -> Any:
    return Akima1DInterpolator(x, y)


def _psnr_span(log_rate: Any, bpp_range: BppRange) -> tuple[float, float]:
    """The PSNRs between which a curve's rate lies inside the range; the first is not the smaller where it lies nowhere inside."""
    (low, high), ends = _log(bpp_range), log_rate.x[[0, -1]]
    if log_rate(ends[1]) <= low or log_rate(ends[0]) >= high:
        return float(ends[1]), float(ends[0])
    enters = log_rate.solve(low, extrapolate=False) if log_rate(ends[0]) < low else ends[:1]
    leaves = log_rate.solve(high, extrapolate=False) if log_rate(ends[1]) > high else ends[1:]
    return float(max(enters)), float(min(leaves))


def _log(bpp_range: BppRange) -> tuple[float, float]:
    with np.errstate(divide="ignore"):
        low, high = np.log(bpp_range)
    return float(low), float(high)


def _text(bpp_range: BppRange) -> str:
    return f"{bpp_range[0]:g} to {bpp_range[1]:g} bits per pixel"

# SPDX-License-Identifier: MIT
"""Rate-distortion curves compared: Bjontegaard's delta rate and delta quality, with Akima interpolation.

Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001; Akima's piecewise cubics in place
of one cubic, since they follow the points and do not swing between them. Curves are compared only where both have points:
nothing is extrapolated. Pure: numpy and scipy, no files.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.interpolate import Akima1DInterpolator

MIN_POINTS: Final = 4  # as many as a cubic needs


class Curve(NamedTuple):
    """One codec at several settings: bits per pixel, and a quality that is higher where the picture is better (dB, as a rule).

    Both rise strictly; whoever uses a curve checks it.
    """

    bpp: Sequence[float]
    quality: Sequence[float]


class Change(NamedTuple):
    """A mean difference of two curves, and the span over which it was taken: of qualities, or of bits per pixel."""

    mean: float
    low: float
    high: float


BppRange = tuple[float, float]
EVERYTHING: Final[BppRange] = (0.0, float("inf"))


def rate_change(anchor: Curve, test: Curve, bpp_range: BppRange = EVERYTHING) -> Change:
    """By how many percent `test` needs more bits than `anchor` at equal quality, on average; negative where it needs fewer.

    bpp_range: only where both curves' rates lie inside; the average is over the qualities that are left. Raises ValueError
    where nothing is left, and on curves that have fewer than four points or do not strictly rise.
    """
    log_rates = [Akima1DInterpolator(quality, log_bpp) for log_bpp, quality in map(_checked, (anchor, test))]
    spans = [_quality_span(log_rate, bpp_range) for log_rate in log_rates]
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    if not low < high:
        texts = " and ".join(f"{span[0]:.2f} to {span[1]:.2f}" for span in spans)
        raise ValueError(f"the curves have no quality in common{_text(bpp_range)}: they span {texts}")
    mean_anchor, mean_test = (float(log_rate.integrate(low, high)) / (high - low) for log_rate in log_rates)
    return Change(float(100 * np.expm1(mean_test - mean_anchor)), low, high)


def quality_change(anchor: Curve, test: Curve, bpp_range: BppRange = EVERYTHING) -> Change:
    """How much higher the quality of `test` is than that of `anchor` at equal rate, on average over the logarithm of the rate.

    Raises ValueError as rate_change does.
    """
    (log_anchor, quality_anchor), (log_test, quality_test) = _checked(anchor), _checked(test)
    low, high = np.clip([max(log_anchor[0], log_test[0]), min(log_anchor[-1], log_test[-1])], *_log(bpp_range))
    if not low < high:
        spans = " and ".join(f"{np.exp(log[0]):.3f} to {np.exp(log[-1]):.3f}" for log in (log_anchor, log_test))
        raise ValueError(f"the curves have no rate in common{_text(bpp_range)}: they span {spans} bits per pixel")
    gap = [Akima1DInterpolator(*pair).integrate(low, high) for pair in ((log_anchor, quality_anchor), (log_test, quality_test))]
    return Change(float(gap[1] - gap[0]) / (high - low), float(np.exp(low)), float(np.exp(high)))


def rate_at(curve: Curve, quality: float) -> float | None:
    """Bits per pixel at which the curve reaches a quality; None outside it. Raises ValueError on a curve as rate_change does."""
    log_bpp, qualities = _checked(curve)
    if not qualities[0] <= quality <= qualities[-1]:
        return None
    return float(np.exp(Akima1DInterpolator(qualities, log_bpp)(quality)))


def _checked(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Log rates and qualities as float64. Raises ValueError."""
    bpp, quality = np.asarray(curve.bpp, np.float64), np.asarray(curve.quality, np.float64)
    if bpp.shape != quality.shape or bpp.ndim != 1 or len(bpp) < MIN_POINTS:
        raise ValueError(
            f"a curve needs at least {MIN_POINTS} points and as many rates as qualities, not {bpp.shape} and {quality.shape}"
        )
    if not (np.isfinite([bpp, quality]).all() and bpp[0] > 0 and (np.diff(bpp) > 0).all() and (np.diff(quality) > 0).all()):
        pairs = ", ".join(f"{rate:.4g}: {value:.4g}" for rate, value in zip(bpp, quality, strict=True))
        raise ValueError(f"rate and quality must be finite and rise strictly from point to point: {pairs}")
    return np.log(bpp), quality


def _quality_span(log_rate: Any, bpp_range: BppRange) -> tuple[float, float]:
    """The qualities between which a curve's rate lies inside the range; the first is not the smaller where it nowhere is."""
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
    return "" if bpp_range == EVERYTHING else f" at {bpp_range[0]:g} to {bpp_range[1]:g} bits per pixel"

# SPDX-License-Identifier: MIT
"""Rows of measurements -> curves, Bjontegaard comparisons, smallest files, wins and losses, speeds. Pure: no files.

Curves are means over those pictures that every codec brought through at every setting, so that all are of the same pictures.
All comparisons are on a metric's axis (see metrics.Metric), which rises with quality.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np

from fewbits.bench.bjontegaard import EVERYTHING, BppRange, Curve, quality_change, rate_at, rate_change
from fewbits.bench.metrics import METRICS

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CurveData:
    """A rate-distortion curve: points of (setting, bits per pixel, value on the metric's axis), by rising rate."""

    codec: str
    metric: str
    points: tuple[tuple[float | None, float, float], ...]

    def curve(self) -> Curve:
        return _curve([point[1:] for point in self.points])


@dataclass(frozen=True, slots=True)
class Comparison:
    """A Bjontegaard comparison of `test` against `anchor`.

    rate_percent: rate difference at equal quality in percent, negative where `test` needs fewer bytes. quality_gain: quality
    difference at equal rate in the metric's unit, None as well where the curves share qualities, but no rates. low, high: the
    span of quality compared over, in the metric's unit. reason: why a number is missing, "" where none is.
    """

    metric: str
    anchor: str
    test: str
    rate_percent: float | None
    quality_gain: float | None
    low: float | None
    high: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class SmallestFile:
    """Bits per pixel that `codec` needs for `quality` (metric's unit): mean over the n_pictures where all codecs that are
    compared at it get there.

    reason: why there is no number, "" where there is one.
    """

    metric: str
    quality: float
    codec: str
    mean_bpp: float | None
    n_pictures: int
    reason: str


@dataclass(frozen=True, slots=True)
class Wins:
    """On how many pictures `test` needs fewer bytes than `anchor`, more, or cannot be told.

    median_percent: median over the pictures of the Bjontegaard rate in percent, negative where `test` needs fewer bytes.
    """

    metric: str
    anchor: str
    test: str
    n_wins: int
    n_losses: int
    n_undecided: int
    median_percent: float | None


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians over rows in megapixels a second, how many times the reference codec's that is, and the most memory in MB."""

    codec: str
    encode_mps: float | None
    decode_mps: float | None
    encode_ratio: float | None
    decode_ratio: float | None
    peak_mb: float | None


def without_broken_codecs(rows: Sequence[Row], codecs: Sequence[str]) -> tuple[list[Row], dict[str, str]]:
    """The rows of codecs that brought at least one picture through, and why, by name, of those that did not."""
    broken = {}
    for codec in codecs:
        own = [row for row in rows if row["codec"] == codec]
        failed = {row["image"]: row["error"] for row in own if row["bytes"] is None}
        if own and failed.keys() == {row["image"] for row in own}:
            broken[codec] = next(iter(failed.values()))
    return [row for row in rows if row["codec"] not in broken], broken


def whole_pictures(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Names of the pictures that every codec brought through at every setting, and of the others."""
    failed = {row["image"] for row in rows if row["bytes"] is None}
    names = list(dict.fromkeys(row["image"] for row in rows))
    return [name for name in names if name not in failed], [name for name in names if name in failed]


def measured_pictures(rows: Sequence[Row], metric: str) -> tuple[list[str], dict[str, str]]:
    """Of the whole pictures, those with a finite value of the metric in every row, and why, by name, of the others.

    A small picture may have none, and one that a codec brings back as it was has no finite PSNR.
    """
    whole = dict.fromkeys(whole_pictures(rows)[0])
    why: dict[str, str] = {}
    for row in rows:
        if row["image"] in whole and row["image"] not in why:
            if row[metric] is None:
                why[row["image"]] = "too small for it"
            elif not math.isfinite(METRICS[metric].axis(row[metric])):
                why[row["image"]] = f"not finite, {row['codec']} {row['setting']:g} loses nothing"
    return [name for name in whole if name not in why], why


def mean_curves(rows: Sequence[Row], codecs: Sequence[str], metrics: Sequence[str]) -> list[CurveData]:
    """A curve for each codec and metric, over the measured_pictures of that metric."""
    curves = []
    measured = {metric: set(measured_pictures(rows, metric)[0]) for metric in metrics}
    for codec in codecs:
        for metric in metrics:
            own = [row for row in rows if row["codec"] == codec and row["image"] in measured[metric]]
            points = []
            for setting in sorted({row["setting"] for row in own}):
                here = [row for row in own if row["setting"] == setting]
                bpp = float(np.mean([row["bpp"] for row in here]))
                points.append((setting, bpp, METRICS[metric].axis(float(np.mean([row[metric] for row in here])))))
            # settings are no order: where one is a quantizer's step, larger ones give smaller files
            curves.append(CurveData(codec, metric, tuple(sorted(points, key=lambda point: point[1:]))))
    return curves


def _curve(points: Sequence[tuple[float, float]]) -> Curve:
    """Points of rate and quality, by rising rate; one that repeats the one before, as coarse settings give, is none."""
    own = [point for k, point in enumerate(points) if k == 0 or point != points[k - 1]]
    return Curve([point[0] for point in own], [point[1] for point in own])


def comparisons(curves: Sequence[CurveData], anchors: Sequence[str], bpp_range: BppRange = EVERYTHING) -> list[Comparison]:
    """Every curve against those of `anchors` in the same metric, over what both span within `bpp_range`."""
    by_name = {(data.metric, data.codec): data.curve() for data in curves if data.points}
    found = []
    for metric, anchor in [(metric, anchor) for metric, anchor in by_name if anchor in anchors]:
        for other, test in by_name:
            if other == metric and test != anchor:
                found.append(_comparison(metric, anchor, test, by_name, bpp_range))
    return found


def _comparison(metric: str, anchor: str, test: str, curves: Mapping[tuple[str, str], Curve], bpp_range: BppRange) -> Comparison:
    pair = curves[metric, anchor], curves[metric, test]
    try:
        rate = rate_change(*pair, bpp_range)
    except ValueError as error:
        return Comparison(metric, anchor, test, None, None, None, None, str(error))
    try:
        gain, reason = quality_change(*pair, bpp_range).mean, ""
    except ValueError as error:  # one is so much better that even its largest files are smaller
        gain, reason = None, str(error)
    return Comparison(metric, anchor, test, rate.mean, gain, rate.low, rate.high, reason)


def picture_curves(rows: Sequence[Row], codecs: Sequence[str], metric: str) -> dict[str, dict[str, Curve]]:
    """Curves of single pictures, by picture and codec; only measured_pictures of the metric."""
    whole = measured_pictures(rows, metric)[0]
    points: dict[str, dict[str, list[tuple[float, float]]]] = {name: {codec: [] for codec in codecs} for name in whole}
    for row in rows:
        if row["image"] in points and row["codec"] in codecs:
            points[row["image"]][row["codec"]].append((row["bpp"], METRICS[metric].axis(row[metric])))
    return {name: {codec: _curve(sorted(own)) for codec, own in of_codec.items()} for name, of_codec in points.items()}


def wins(rows: Sequence[Row], codecs: Sequence[str], metrics: Sequence[str], bpp_range: BppRange = EVERYTHING) -> list[Wins]:
    """Every codec against every other, picture by picture, by the sign of the Bjontegaard rate."""
    found = []
    for metric in metrics:
        curves = picture_curves(rows, codecs, metric)
        for anchor in codecs:
            for test in (codec for codec in codecs if codec != anchor):
                rates = []
                for of_codec in curves.values():
                    try:
                        rates.append(rate_change(of_codec[anchor], of_codec[test], bpp_range).mean)
                    except ValueError:
                        continue
                n_wins, n_losses = sum(rate < 0 for rate in rates), sum(rate > 0 for rate in rates)
                undecided = len(curves) - n_wins - n_losses
                found.append(Wins(metric, anchor, test, n_wins, n_losses, undecided, median(rates) if rates else None))
    return found


def smallest_files(rows: Sequence[Row], codecs: Sequence[str], levels: Mapping[str, Sequence[float]]) -> list[SmallestFile]:
    """Mean bits per pixel at equal quality, interpolated picture by picture, over the pictures where every codec reaches it.

    A codec that gets there on too few pictures to be compared (see _compared), or of which no picture has a curve, but, say, two
    points, is left out with the reason, and keeps no other from a number.
    """
    found = []
    for metric, qualities in levels.items():
        curves = picture_curves(rows, codecs, metric)
        problems = {codec: [_problem(of_codec[codec]) for of_codec in curves.values()] for codec in codecs}
        broken = {codec: own[0] for codec, own in problems.items() if own and all(own)}
        for quality in qualities:
            rates: dict[str, list[float | None]] = {codec: [] for codec in codecs}
            for of_codec in curves.values():
                for codec in codecs:
                    rates[codec].append(_rate_or_none(of_codec[codec], quality))
            reached = {codec: {k for k, rate in enumerate(own) if rate is not None} for codec, own in rates.items()}
            able = _compared(reached)
            shared = sorted(set.intersection(*(reached[codec] for codec in able))) if able else []
            for codec in codecs:
                values = [rate for k in shared if codec in able and (rate := rates[codec][k]) is not None]
                few = f"reached on {len(reached[codec])} of {len(curves)} pictures, too few to be compared"
                reason = "" if values else broken.get(codec, few)
                mean_bpp = float(np.mean(values)) if values else None
                found.append(SmallestFile(metric, quality, codec, mean_bpp, len(shared), reason))
    return found


def _compared(reached: Mapping[str, set[int]]) -> list[str]:
    """Of codecs, by the pictures on which each reaches a quality, those that are compared at it, on the pictures that they share.

    Left out are those that reach it on fewer than half as many pictures as another one does; and then, as long as the others
    share no picture, the one of the fewest, the last of several. So a weak codec takes neither all pictures nor most from others.
    """
    most = max(map(len, reached.values()), default=0)
    able = [codec for codec, own in reached.items() if own and 2 * len(own) >= most]
    while able and not set.intersection(*(reached[codec] for codec in able)):
        able.remove(min(reversed(able), key=lambda codec: len(reached[codec])))
    return able


def _problem(curve: Curve) -> str:
    """Why there are no rates on a curve, "" where there are."""
    try:
        rate_at(curve, 0.0)
    except ValueError as error:
        return str(error)
    return ""


def _rate_or_none(curve: Curve, quality: float) -> float | None:
    try:
        return rate_at(curve, quality)
    except ValueError:
        return None


def speeds(rows: Sequence[Row], codecs: Sequence[str], reference: str) -> list[Speed]:
    """Medians over all rows that have times; ratios to those of the codec `reference`."""
    rates: dict[str, tuple[float | None, float | None]] = {}
    peaks: dict[str, float | None] = {}
    for codec in codecs:
        own = [row for row in rows if row["codec"] == codec and row["encode_s"] is not None]
        encode, decode = ([row["width"] * row["height"] / 1e6 / row[name] for row in own] for name in ("encode_s", "decode_s"))
        rates[codec] = (median(encode), median(decode)) if own else (None, None)
        peaks[codec] = max((row["peak_mb"] for row in own if row["peak_mb"] is not None), default=None)
    base = rates.get(reference, (None, None))
    found = []
    for codec in codecs:
        encode_mps, decode_mps = rates[codec]
        ratios = _ratio(encode_mps, base[0]), _ratio(decode_mps, base[1])
        found.append(Speed(codec, encode_mps, decode_mps, *ratios, peaks[codec]))
    return found


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


DEFAULT_LEVELS: Final = {metric.name: metric.levels for metric in METRICS.values() if metric.levels}

# SPDX-License-Identifier: MIT
"""What a file is to be, a size or a quality, and the search for the setting that makes it so.

Pure: settings are positions 0..last, higher ones larger and better; what one gives is asked of a function, which is dear. Sizes
are searched by their logarithm and qualities on an axis (`Measure.axis`), which both are nearly straight lines over positions.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Final, NamedTuple

from fewbits.errors import ImageError

UNITS: Final = {"": 1, "b": 1, "kb": 1000, "kib": 1 << 10, "mb": 1000**2, "mib": 1 << 20}  # small letters; any case is read
_MOST: Final = 1e15  # of any target: further than any picture reaches, and far from where floats end
SHARE: Final = 0.97  # of a size that a file takes up, where settings are fine enough
_AIM: Final = 0.988  # in the upper half of what is allowed, as guesses are better than SHARE is wide
_SIZE_SLOPE: Final = 2.9  # logarithm of the sizes at the last and the first position: a guess for the second attempt
_MAX_ATTEMPTS: Final = 24  # bisection alone needs 14 for 10001 positions
_ALIKE: Final = 1 / 500  # of all positions: files so near differ by half a percent, and scores of graphics can jump
_APART: Final = 1 / 100  # of all positions: what two attempts are apart at least, to tell a slope
_CLOSE: Final = 3  # margins: so far a step along a line needs no more attempts
_MOST_WHOLE: Final = 3  # times that the whole is measured where there is a sample, but for the last position
_RECHECK: Final = 15  # margins: where a guess is further off, the whole is measured once more
_SHORT: Final = 3 / 20  # of all positions: so far a line may lead to what is not measured again
_GUARD: Final = 0.06  # of a step that a sample leads, and that is not measured again, is added to be safe


@dataclass(frozen=True)
class Target:
    """What `encode` is to reach; give one of them.

    size: bytes at most, a number or text with a unit such as "200kB" (B, kB, KiB, MB, MiB). bpp: the same as bits per pixel.
    psnr: dB at least, over R, G and B together. ssim: at least, 0 to 1 (structure.ssim: single-scale, not MS-SSIM).
    ssimulacra2: at least, 100 being equal. Raises ImageError.
    """

    size: int | str | None = None
    bpp: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    ssimulacra2: float | None = None

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if len(given) != 1:
            raise ImageError(f"a target is one of {', '.join(field.name for field in fields(self))}, given: {len(given)}")
        if isinstance(self.size, str):
            object.__setattr__(self, "size", parse_size(self.size))
        value: Any = getattr(self, self.name)
        below = {"ssim": 1, "ssimulacra2": 100}.get(self.name, _MOST)
        lowest = -_MOST if self.name == "ssimulacra2" else 0
        known = isinstance(value, Real) and not isinstance(value, bool)
        if not known or not lowest < value < below:  # also catches NaN
            bounds = f"above {lowest:g} and below {below:g}"
            raise ImageError(f"target {self.name} is {value}, it must be a number {bounds}")
        object.__setattr__(self, self.name, int(value) if isinstance(value, Integral) else float(value))  # numpy's, too

    @property
    def name(self) -> str:
        """Which it is."""
        return next(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def limit_bytes(self, n_pixels: int) -> int | None:
        """The most bytes that a file of so many pixels may have; None where the target is a quality."""
        if self.size is not None:
            return int(self.size)
        return None if self.bpp is None else math.floor(self.bpp * n_pixels / 8)


def parse_size(text: str) -> int:
    """ "200kB", "1.5 MiB", "4096" -> bytes, rounded down. Raises ImageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if not found or found[2].lower() not in UNITS:
        raise ImageError(f"size is {text!r}, it must be a number with B, kB, KiB, MB or MiB, such as 200kB")
    return math.floor(min(float(found[1]) * UNITS[found[2].lower()], _MOST))


def fit_size(size: Callable[[int], int], last: int, limit: int, start: int) -> int | None:
    """The position of the largest file tried that has at most `limit` bytes; None where that of position 0 has more.

    It ends at SHARE of the limit, or at the last position, or where the next position is too large. size(position) is called once
    for each; sizes need not rise everywhere. start: where to begin.
    """
    tried: dict[int, int] = {}
    low, high, position = -1, last + 1, min(max(start, 0), last)
    while position not in tried and len(tried) < _MAX_ATTEMPTS:
        tried[position] = n_bytes = size(position)
        if n_bytes <= limit:
            if n_bytes >= SHARE * limit:
                return position
            low = position
        else:
            high = position
        if high - low <= 1:
            break
        position = _next_size(tried, low, high, last, math.log(max(limit, 1) * _AIM))
    fitting = {place: n_bytes for place, n_bytes in tried.items() if n_bytes <= limit}
    return max(fitting, key=lambda place: (fitting[place], place)) if fitting else None


def _next_size(tried: dict[int, int], low: int, high: int, last: int, wanted: float) -> int:
    """Where the line through the two nearest attempts has the wanted logarithm, between low and high; at times their middle."""
    logs = {place: math.log(max(n_bytes, 1)) for place, n_bytes in tried.items()}
    inner = (low + 1, high - 1)
    if low in logs and high in logs:
        if len(tried) > 4 and len(tried) % 2:  # a line that is no guide
            return (low + high) // 2
        left, slope = low, (logs[high] - logs[low]) / (high - low)
    else:
        *before, left = tried  # all on one side so far
        slope = (logs[left] - logs[before[-1]]) / (left - before[-1]) if before else _SIZE_SLOPE / max(last, 1)
    slope = max(slope, _SIZE_SLOPE / max(last, 1) / 8)  # level ground, or falling: walk on
    return min(max(round(left + (wanted - logs[left]) / slope), inner[0]), inner[1])


class Found(NamedTuple):
    """Where a search for a quality ended. score: what it reaches there on the axis; exact: measured so, not inferred."""

    position: int
    score: float
    exact: bool


def fit_score(
    whole: Callable[[int], tuple[float, float]],
    sample: Callable[[int], float] | None,
    last: int,
    wanted: float,
    *,
    start: int,
    slope: float,
    margin: float,
    trust: float = 0,
) -> Found:
    """The lowest position whose score is at least `wanted`, within `margin` above.

    sample(position): the score of a part of the picture, much cheaper, which rises like that of the whole but may lie elsewhere;
    None where there is none. whole(position): the score and the sample's. With a sample it is asked once as a rule: at the
    start. What it is off by is then made good along the sample's slope, by a little more than that (_GUARD), and asked
    again only where that was far, or at the last position. slope: from the first position to the last, as a guess. trust: of all
    positions, how far a step along that slope may lead, where there is no sample, without being measured.
    """
    if sample is None:
        return _fit_exactly(whole, last, wanted, start, slope / max(last, 1), margin, trust)
    curve: dict[int, float] = {}  # of the sample
    whole_curve: dict[int, float] = {}
    guess, position = slope / max(last, 1), min(max(start, 0), last)
    while True:
        score, curve[position] = whole(position)
        whole_curve[position] = score
        missing = wanted - score
        if -margin <= missing <= 0 or position == (last if missing > 0 else 0):
            return Found(position, score, True)
        if len(whole_curve) > 1:
            following = _meets(whole_curve, last, wanted + margin / 10, _slope_at(curve, last, position, guess))
        else:
            step = missing + _GUARD * abs(missing) + margin / 4
            following = _meets(curve, last, curve[position] + step, guess)
            if abs(missing) > _CLOSE * margin and following not in curve:
                curve[following] = sample(following)
                following = _meets(curve, last, curve[position] + step, guess)
        near = abs(missing) <= _RECHECK * margin and abs(following - position) <= last * _SHORT
        near = near and 0 < position < last  # to an end the sample led beyond its line
        if near and whole_curve.get(following, wanted) < wanted:
            following += 1  # levels are far apart, and this one is not enough
        if near and following in whole_curve:
            return Found(following, whole_curve[following], True)
        if near and following != last:  # the last is measured: it may not reach what is wanted
            return Found(following, wanted, False)
        if following in whole_curve or len(whole_curve) == _MOST_WHOLE:  # the sample and the lines are no guides
            return _fit_exactly(whole, last, wanted, (min(whole_curve) + max(whole_curve)) // 2, guess, margin)
        position = following


def _slope_at(curve: dict[int, float], last: int, position: int, guess: float) -> float:
    """Of the line through the attempt nearest to a position and the next one. guess: where there are no two.

    Two that lie close together say nothing of a slope: scores have small waves, too.
    """
    here, *others = sorted(curve, key=lambda place: abs(place - position))
    apart = [place for place in others if abs(place - here) >= last * _APART]
    measured = (curve[apart[0]] - curve[here]) / (apart[0] - here) if apart else guess
    return min(max(measured, guess / 8), guess * 8)


def _meets(curve: dict[int, float], last: int, wanted: float, guess: float) -> int:
    """Where the line at the attempt nearest to `wanted` meets it, rounded up."""
    here = min(curve, key=lambda place: abs(curve[place] - wanted))
    return min(max(math.ceil(here + (wanted - curve[here]) / _slope_at(curve, last, here, guess)), 0), last)


def _fit_exactly(
    whole: Callable[[int], tuple[float, float]],
    last: int,
    wanted: float,
    start: int,
    slope: float,
    margin: float,
    trust: float = 0,
) -> Found:
    """With no sample: closing in from both sides, every score measured but after a short last step."""
    tried: dict[int, float] = {}
    low, high, position = -1, last + 1, min(max(start, 0), last)
    while position not in tried and len(tried) < _MAX_ATTEMPTS:
        score, _ = whole(position)
        tried[position] = score
        if score < wanted:
            low = position
        else:
            high = position
            if score <= wanted + margin:
                break
        if high - low <= max(1, last * _ALIKE):
            break
        missing = abs(wanted - score)
        if missing <= trust * slope * last and last * _APART >= 1:
            following = _meets(tried, last, wanted + margin / 4 + _GUARD * missing, slope)
            if max(low, 0) < following < min(high, last):
                return Found(following, wanted, False)
        following = _meets(tried, last, wanted + margin / 2, slope)
        inside = low < following < high and not (len(tried) > 4 and len(tried) % 2)
        position = following if inside else min(max((low + high) // 2, 0), last) if low >= 0 and high <= last else following
        position = min(max(position, low + 1), high - 1)
    reached = [place for place in tried if tried[place] >= wanted]
    best = min(reached) if reached else max(tried)
    return Found(best, tried[best], True)

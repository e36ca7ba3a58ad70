# SPDX-License-Identifier: MIT
"""Targets as values, and the search on made curves: straight, bent, level in places, falling in places."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from fewbits.errors import ImageError
from fewbits.target import SHARE, Target, fit_score, fit_size, parse_size

LAST = 10_000


class Asked:
    """A function that counts its calls and forbids asking twice."""

    def __init__(self, function: Callable[[int], float]) -> None:
        self.function, self.places = function, list[int]()

    def __call__(self, position: int) -> float:
        assert 0 <= position <= LAST and position not in self.places
        self.places.append(position)
        return self.function(position)


# Values


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("200kB", 200_000), ("1.5 MiB", 3 << 19), ("4096", 4096), ("7B", 7), ("2KiB", 2048), ("3mb", 3_000_000), (".5kb", 500)],
)
def test_sizes_are_read(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes == Target(size=text).limit_bytes(1) == Target(size=n_bytes).limit_bytes(99)


@pytest.mark.parametrize("text", ["", "kB", "-1kB", "1e3", "5GB", "5 k B", "1,5kB", "nan", "0x10", "12kBB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ImageError, match="it must be a number with B, kB, KiB, MB or MiB"):
        Target(size=text)


@pytest.mark.parametrize(
    "given",
    [{"size": 0}, {"size": "0kB"}, {"bpp": 0.0}, {"bpp": math.nan}, {"psnr": -1.0}, {"psnr": math.inf}, {"ssim": 1.0},
     {"ssim": 0.0}, {"ssimulacra2": 100.0}, {"ssimulacra2": math.nan}, {"psnr": "38"}, {"psnr": True}, {"size": [1]}],
)  # fmt: skip
def test_values_outside_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ImageError, match=f"target {next(iter(given))} is"):
        Target(**given)  # type: ignore[arg-type]


def test_numbers_of_every_kind_are_taken() -> None:
    assert Target(psnr=np.float32(30)) == Target(psnr=Fraction(30)) == Target(psnr=30)
    assert Target(size=np.int64(3000)) == Target(size="3kB") and type(Target(size=np.int64(3000)).size) is int


@pytest.mark.parametrize("given", [{}, {"size": 1, "bpp": 1.0}, {"psnr": 1.0, "ssim": 0.5, "bpp": 1.0}])
def test_a_target_is_one(given: dict[str, float]) -> None:
    with pytest.raises(ImageError, match=f"a target is one of size, bpp, psnr, ssim, ssimulacra2, given: {len(given)}"):
        Target(**given)  # type: ignore[arg-type]


def test_bits_per_pixel_are_bytes_rounded_down() -> None:
    assert Target(bpp=0.5).limit_bytes(1001) == 62 and Target(psnr=30).limit_bytes(1001) is None


# Sizes

SIZES: dict[str, Callable[[int], float]] = {
    "straight": lambda place: 5000 * math.exp(3 * place / LAST),
    "bent": lambda place: 800 + 90_000 * (place / LAST) ** 2,
    "steep": lambda place: 50 * math.exp(9 * place / LAST),
    "flat then steep": lambda place: 5000 + math.exp(12 * place / LAST),
    "wavy": lambda place: 5000 * math.exp(3 * place / LAST) * (1 + 0.004 * math.sin(place / 7)),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.99])
def test_sizes_are_met_in_few_attempts(name: str, share: float) -> None:
    curve = SIZES[name]
    limit = int(math.exp(math.log(curve(0)) * (1 - share) + math.log(curve(LAST)) * share))
    size = Asked(lambda place: int(curve(place)))
    position = fit_size(size, LAST, limit, LAST // 2)  # type: ignore[arg-type]
    assert position is not None and SHARE * limit <= int(curve(position)) <= limit
    assert len(size.places) <= {"flat then steep": 14, "bent": 8, "steep": 5}.get(name, 4), size.places


def test_a_usual_curve_takes_two_or_three_attempts() -> None:
    for limit in range(6000, 99_000, 3000):
        size = Asked(lambda place: int(SIZES["straight"](place)))
        fit_size(size, LAST, limit, LAST // 2)  # type: ignore[arg-type]
        assert len(size.places) <= 3


@pytest.mark.parametrize("limit", [1, 100, 4999])
def test_what_is_below_the_smallest_is_not_met(limit: int) -> None:
    size = Asked(lambda place: 5000 + place)
    assert fit_size(size, LAST, limit, LAST // 2) is None  # type: ignore[arg-type]
    assert 0 in size.places


def test_the_very_smallest_and_the_very_largest_are_found() -> None:
    assert fit_size(lambda place: 5000 + place, LAST, 5000, LAST // 2) == 0
    assert fit_size(lambda place: 5000 + place, LAST, 1 << 40, LAST // 2) == LAST
    assert fit_size(lambda place: 70, 0, 70, 0) == 0 and fit_size(lambda place: 70, 0, 69, 0) is None


@pytest.mark.parametrize("limit", range(40, 140, 3))
def test_levels_and_steps_back_never_lead_above(limit: int) -> None:
    """Tiny files: sizes are multiples of 4, with steps down."""
    curve = lambda place: 44 + 4 * int(20 * place / LAST + (place // 400) % 2)  # noqa: E731
    position = fit_size(curve, LAST, limit, LAST // 2)
    if limit < 44:
        assert position is None
    else:
        assert position is not None and curve(position) <= limit
        assert curve(position) > limit - 12 or position == LAST


@pytest.mark.parametrize("n_levels", [1, 2, 7, 30])
def test_few_levels_end_at_the_largest_that_fits(n_levels: int) -> None:
    sizes = [round(1000 * 1.15**k) for k in range(n_levels)]
    for limit in range(999, sizes[-1] + 200, 37):
        expected = max((k for k, n_bytes in enumerate(sizes) if n_bytes <= limit), default=None)
        assert fit_size(sizes.__getitem__, n_levels - 1, limit, n_levels // 2) == expected


# Qualities

SCORES: dict[str, Callable[[int], float]] = {
    "straight": lambda place: 25 + 15 * place / LAST,
    "bent": lambda place: 25 + 15 * (place / LAST) ** 0.75,
    "very bent": lambda place: 25 + 15 * math.sqrt(place / LAST),
    "wavy": lambda place: 25 + 15 * place / LAST + 0.02 * math.sin(place / 9),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("wanted", [25.5, 29.0, 33.0, 38.0, 39.9])
def test_qualities_measured_whole_are_met(name: str, wanted: float) -> None:
    score = Asked(SCORES[name])
    found = fit_score(lambda place: (score(place), math.nan), None, LAST, wanted, start=LAST // 2, slope=12, margin=0.1)
    assert found.exact and found.score == SCORES[name](found.position)
    assert wanted <= found.score <= wanted + 0.1 and len(score.places) <= 7


@pytest.mark.parametrize("wanted", [24.0, 41.0])
@pytest.mark.parametrize("sampled", [False, True])
def test_what_is_outside_ends_at_an_end(wanted: float, sampled: bool) -> None:
    curve = SCORES["straight"]
    sample = (lambda place: curve(place) + 0.4) if sampled else None
    found = fit_score(
        lambda place: (curve(place), curve(place) + 0.4), sample, LAST, wanted, start=LAST // 2, slope=12, margin=0.1
    )
    assert found.position == (LAST if wanted > 40 else 0)
    assert found.exact and found.score == SCORES["straight"](found.position)


@pytest.mark.parametrize("name", ["straight", "bent", "wavy"])
@pytest.mark.parametrize("wanted", [27.0, 30.0, 33.0, 37.0])
@pytest.mark.parametrize("off", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("faster", [0.95, 1.0, 1.05])
@pytest.mark.parametrize("guessed", [-1200, -600, 0, 300, 900])
def test_a_sample_leads_to_the_quality(name: str, wanted: float, off: float, faster: float, guessed: int) -> None:
    """Also where it lies elsewhere and rises otherwise; the whole is measured once, twice where it was far off."""
    whole = Asked(SCORES[name])

    def part(place: int) -> float:
        return off + 25 + (SCORES[name](place) - 25) * faster

    sample = Asked(part)
    there = next(place for place in range(LAST) if SCORES[name](place) >= wanted)
    found = fit_score(
        lambda place: (whole(place), part(place)), sample, LAST, wanted, start=there + guessed, slope=12, margin=0.1
    )
    reached = SCORES[name](found.position)
    short = {"straight": 0.01, "wavy": 0.06, "bent": 0.08}[name]
    assert wanted - short <= reached <= wanted + 0.2 + short
    assert found.score == (reached if found.exact else wanted)
    assert len(whole.places) <= 3 and len(sample.places) <= 3
    if abs(guessed) < 1000 and name in ("straight", "wavy"):
        assert len(whole.places) == 1 and len(sample.places) <= 1


@pytest.mark.parametrize("wanted", [26.0, 30.0, 37.0])
@pytest.mark.parametrize("part", [lambda place: 30.0, lambda place: 60 + place / 1000, lambda place: 40 - place / LAST])
def test_a_sample_that_tells_nothing_is_found_out(wanted: float, part: Callable[[int], float]) -> None:
    curve = SCORES["very bent"]
    found = fit_score(lambda place: (curve(place), part(place)), part, LAST, wanted, start=5000, slope=12, margin=0.1)
    assert wanted - 0.25 <= curve(found.position) <= wanted + 0.35


@pytest.mark.parametrize("n_levels", [1, 2, 7, 30])
def test_few_levels_end_at_the_first_that_is_good_enough(n_levels: int) -> None:
    scores = [25 + 15 * k / n_levels for k in range(n_levels)]
    for wanted in (24.0, 25.0, 27.0, 33.3, 38.0):
        expected = next((k for k, score in enumerate(scores) if score >= wanted), n_levels - 1)
        found = fit_score(
            lambda place: (scores[place], math.nan), None, n_levels - 1, wanted, start=n_levels // 2, slope=12, margin=0.1
        )
        assert found.position == expected and found.score == scores[expected]


@pytest.mark.parametrize("guessed", [-500, -200, 200, 500])
def test_a_short_step_is_trusted_where_it_may_be(guessed: int) -> None:
    """Along a slope that is a fifth off; further steps are measured."""
    curve, wanted = (lambda place: 25 + 15 * place / LAST), 32.5
    score = Asked(curve)
    found = fit_score(
        lambda place: (score(place), math.nan), None, LAST, wanted, start=LAST // 2 + guessed, slope=12.5, margin=0.1, trust=0.04
    )
    assert len(score.places) == (1 if abs(guessed) < 400 else 2)
    assert wanted - 0.1 <= curve(found.position) <= wanted + 0.15


def test_scores_that_jump_cost_no_more_attempts_than_they_are_worth() -> None:
    """Of graphics: the search ends where files differ by little, not at the very position of the jump."""
    score = Asked(lambda place: 25 + 15 * place / LAST + 2 * (place > 4321))
    found = fit_score(lambda place: (score(place), math.nan), None, LAST, 32.5, start=LAST // 2, slope=12, margin=0.1)
    assert found.exact and 4321 < found.position <= 4321 + LAST / 500 and len(score.places) <= 10


def test_where_a_sample_leads_to_an_end_the_last_step_is_measured() -> None:
    """There its line is no guide: scores of graphics are uneven."""
    curve = lambda place: 25 + 15 * (place / LAST) ** 2  # noqa: E731
    whole = Asked(curve)
    found = fit_score(
        lambda place: (whole(place), curve(place) + 3), lambda place: curve(place) + 3, LAST, 25.5, start=0, slope=12, margin=0.1
    )
    assert len(whole.places) > 1 and whole.places[0] == 0 and 25.45 <= curve(found.position) <= 25.7

# SPDX-License-Identifier: MIT
"""Bjontegaard rates against what is known in advance, and against published curves."""

import pytest

pytest.importorskip("scipy")

from fewbits.bench.bjontegaard import Curve, quality_change, rate_at, rate_change  # noqa: E402

BPP = [0.1, 0.2, 0.4, 0.8, 1.6]
ANCHOR = Curve(BPP, [26.0, 29.0, 32.5, 36.0, 39.0])


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3])
def test_a_constant_factor_of_rate_is_found(factor: float) -> None:
    test = Curve([factor * bpp for bpp in BPP], ANCHOR.quality)
    assert rate_change(ANCHOR, test).mean == pytest.approx(100 * (factor - 1), abs=1e-9)
    assert rate_change(ANCHOR, test, (0.15, 1.0)).mean == pytest.approx(100 * (factor - 1), abs=1e-9)


def test_going_there_and_back_cancels() -> None:
    test = Curve([0.09, 0.21, 0.36, 0.7, 1.5], [26.5, 29.5, 32.0, 36.2, 39.9])
    there, back = rate_change(ANCHOR, test).mean, rate_change(test, ANCHOR).mean
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


@pytest.mark.parametrize(
    "curve",
    [
        Curve(BPP, [50.0, 51.0, 52.0, 53.0, 54.0]),
        Curve(BPP[:3], [26.0, 29.0, 32.5]),
        Curve(BPP, [26.0, 29.0, 29.0, 36.0, 39.0]),
        Curve([0.1, 0.2, 0.15, 0.8, 1.6], ANCHOR.quality),
    ],
    ids=["no overlap", "three points", "quality stays", "rate falls"],
)
def test_what_cannot_be_compared_is_refused(curve: Curve) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        rate_change(ANCHOR, curve)


def test_it_is_what_another_library_finds() -> None:
    library = pytest.importorskip("bjontegaard")
    test = Curve([0.09, 0.21, 0.36, 0.7, 1.5], [26.5, 29.5, 32.0, 36.2, 39.9])
    options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
    assert rate_change(ANCHOR, test).mean == pytest.approx(library.bd_rate(*ANCHOR, *test, **options), abs=1e-6)
    assert quality_change(ANCHOR, test).mean == pytest.approx(library.bd_psnr(*ANCHOR, *test, **options), abs=1e-6)


def test_the_span_compared_is_told() -> None:
    test = Curve([0.2, 0.4, 0.8, 1.6], [27.0, 30.0, 33.0, 41.0])
    assert rate_change(ANCHOR, test)[1:] == (27.0, 39.0)
    assert quality_change(ANCHOR, test)[1:] == pytest.approx((0.2, 1.6))
    assert quality_change(ANCHOR, test, (0.3, 0.9))[1:] == pytest.approx((0.3, 0.9))


def test_a_constant_gain_of_quality_is_found() -> None:
    assert quality_change(ANCHOR, Curve(BPP, [q + 1.5 for q in ANCHOR.quality])).mean == pytest.approx(1.5)


def test_the_rate_at_a_quality() -> None:
    assert rate_at(ANCHOR, 32.5) == pytest.approx(0.4)
    assert rate_at(ANCHOR, 25.9) is None and rate_at(ANCHOR, 39.1) is None
    with pytest.raises(ValueError, match="rise strictly"):
        rate_at(Curve(BPP, [26.0, 29.0, 28.0, 36.0, 39.0]), 30)

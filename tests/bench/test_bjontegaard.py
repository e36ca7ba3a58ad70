# SPDX-License-Identifier: MIT
"""Bjontegaard rates against what is known in advance, and against published curves."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from fewbits.bench.bjontegaard import Curve, crossings, rate_change  # noqa: E402

BPP = [0.1, 0.2, 0.4, 0.8, 1.6]
ANCHOR = Curve(BPP, [26.0, 29.0, 32.5, 36.0, 39.0])


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3])
def test_a_constant_factor_of_rate_is_found(factor: float) -> None:
    test = Curve([factor * bpp for bpp in BPP], ANCHOR.psnr)
    assert rate_change(ANCHOR, test) == pytest.approx(100 * (factor - 1), abs=1e-9)
    assert rate_change(ANCHOR, test, (0.15, 1.0)) == pytest.approx(100 * (factor - 1), abs=1e-9)


def test_going_there_and_back_cancels() -> None:
    test = Curve([0.09, 0.21, 0.36, 0.7, 1.5], [26.5, 29.5, 32.0, 36.2, 39.9])
    there, back = rate_change(ANCHOR, test), rate_change(test, ANCHOR)
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


@pytest.mark.parametrize(
    "curve",
    [
        Curve(BPP, [50.0, 51.0, 52.0, 53.0, 54.0]),
        Curve(BPP[:3], [26.0, 29.0, 32.5]),
        Curve(BPP, [26.0, 29.0, 29.0, 36.0, 39.0]),
        Curve([0.1, 0.2, 0.15, 0.8, 1.6], ANCHOR.psnr),
    ],
    ids=["no overlap", "three points", "quality stays", "rate falls"],
)
def test_what_cannot_be_compared_is_refused(curve: Curve) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        rate_change(ANCHOR, curve)


def test_a_crossing_is_found_where_it_is() -> None:
    log_bpp = np.log(BPP)
    tilted = Curve(BPP, (np.array(ANCHOR.psnr) + (log_bpp - np.log(0.4))).tolist())
    assert crossings(ANCHOR, tilted) == pytest.approx([0.4], rel=1e-2)
    assert crossings(ANCHOR, Curve(BPP, [psnr + 1 for psnr in ANCHOR.psnr])) == []


@pytest.mark.parametrize(("name", "percent"), [("BPG 4:4:4 (x265)", 22), ("mbt2018-mean", 21)])
def test_published_curves_give_published_rates(shared: Path, name: str, percent: float) -> None:
    curves = json.loads((shared.parent / "reference" / "kodak-published.json").read_text())["curves"]
    test, anchor = (Curve(curves[key]["bpp"], curves[key]["psnr"]) for key in (name, "VVC (VTM)"))
    assert rate_change(anchor, test) == pytest.approx(percent, abs=1)

# SPDX-License-Identifier: MIT
"""Calibrated tables fit the symbols that they were counted on at least as well as the logistics, and stay tables."""

import numpy as np
import pytest

pytest.importorskip("torch")

from fewbits.codec import Model  # noqa: E402
from fewbits.coding.tables import TOTAL  # noqa: E402
from fewbits.training import export  # noqa: E402
from fewbits.training.calibrate import CROP_PX, QUALITIES, calibrated_tables, sample_crops
from fewbits.training.data import find_pictures


def test_calibration_saves_bits_and_changes_no_symbol(tiny_run) -> None:
    files = {path.name: path.read_bytes() for path in tiny_run.bundle.iterdir()}
    before = Model(files, "before")
    crop = np.random.default_rng(5).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    tables = calibrated_tables(before, [crop])
    after = Model(export.amended(files, tables, {}), "after")
    assert tables["y_frequencies"].shape == before.bundle.tables["y_frequencies"].shape

    stops = np.cumsum(2 * before.bundle.tables["y_limits"].astype(np.int64) + 2)
    for row in np.split(tables["y_frequencies"].astype(np.int64), stops[:-1]):
        assert row.sum() == TOTAL and row.min() >= 1
        assert np.abs(row[:-1] - row[-2::-1]).max() <= 1  # symmetric but for the rounding of frequencies
    saved = [
        before.indexed_symbols(before.encode(crop, q)).bits - after.indexed_symbols(after.encode(crop, q)).bits for q in QUALITIES
    ]
    assert sum(saved) > 0
    one, other = before.symbols(before.encode(crop, 50)), after.symbols(after.encode(crop, 50))
    assert np.array_equal(one.latent, other.latent) and np.array_equal(one.hyper, other.hyper)


def test_crops_are_of_different_pictures(tiny_run) -> None:
    items = find_pictures([tiny_run.data])
    crops = sample_crops(items, 2)
    assert len(crops) == min(2, len(items)) and all(crop.shape == (CROP_PX, CROP_PX, 3) for crop in crops)
    assert all(np.array_equal(one, other) for one, other in zip(crops, sample_crops(items, 2), strict=True))

# SPDX-License-Identifier: MIT
"""Frozen tables from what a trained model's symbols really are, instead of the logistics that it was trained under.

The tables are chosen by integers, so their content is free: counts over training pictures, with the logistic as a prior
where counts are few. It costs the decoder nothing.
"""

from collections.abc import Sequence

import numpy as np

from fewbits.codec import Model
from fewbits.coding.tables import quantize_frequencies
from fewbits.training.data import Item, decode_rgb, random_crop

QUALITIES = (0, 15, 30, 45, 60, 75, 90, 100)
CROP_PX = 512
PRIOR_COUNT = 2000.0  # the logistic counts as much as so many symbols


def sample_crops(items: Sequence[Item], n_crops: int, seed: int = 0) -> list[np.ndarray]:
    """uint8 (512, 512, 3) crops of `n_crops` different pictures, or of all where there are fewer."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(items))[:n_crops]
    pictures = (decode_rgb(items[k]) for k in chosen)
    return [random_crop(picture, CROP_PX, rng) for picture in pictures if picture is not None]


def calibrated_tables(model: Model, crops: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """New `y_frequencies` for the model's bundle: limits and alphabet stay. Tables are symmetric about 0."""
    limits = model.bundle.tables["y_limits"].astype(np.int64)
    stops = np.cumsum(2 * limits + 2)
    old = np.split(model.bundle.tables["y_frequencies"].astype(np.float64), stops[:-1])
    counts = [np.zeros(limit + 2) for limit in limits]  # magnitudes 0..limit, escape
    for crop in crops:
        for quality in QUALITIES:
            found = model.indexed_symbols(model.encode(crop, quality))
            for k in np.unique(found.indices):
                magnitudes = np.abs(found.values[found.indices == k].astype(np.int64))
                counts[k] += np.bincount(np.minimum(magnitudes, limits[k] + 1), minlength=limits[k] + 2)
    rows = [_blend(count, frequencies) for count, frequencies in zip(counts, old, strict=True)]
    return {"y_frequencies": np.concatenate(rows).astype(np.uint32)}


def _blend(count: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Counts of magnitudes and the escape, blended with a table of signed symbols and the escape -> such a table."""
    limit = len(count) - 2
    half = count[1 : limit + 1] / 2
    signed = np.concatenate([half[::-1], count[:1], half, count[-1:]])
    return quantize_frequencies(signed + PRIOR_COUNT * frequencies / frequencies.sum())

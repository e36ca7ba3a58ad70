# SPDX-License-Identifier: MIT
"""Frozen integer probability tables. Built once at export; nothing here computes a probability."""

from functools import cached_property
from typing import Any

import constriction
import numpy as np

PRECISION = 24  # bits; constriction's range coder works on intervals of 2**24
TOTAL = 1 << PRECISION


def checked_frequencies(frequencies: np.ndarray) -> np.ndarray:
    """As int64. frequencies: integers, shape (..., n), each at least 1; those of a table sum to 2**24. Raises ValueError."""
    found = np.asarray(frequencies)
    if found.dtype.kind not in "iu" or (found > TOTAL).any():  # larger ones could wrap their sum around
        raise ValueError(f"frequencies must be integers of at most {TOTAL}")
    frequencies = found.astype(np.int64)
    least, sums = frequencies.min(), frequencies.sum(-1)
    if least < 1 or (sums != TOTAL).any():
        worst = sums.flat[np.abs(sums - TOTAL).argmax()]
        raise ValueError(f"frequencies must be at least 1 and sum to {TOTAL}: least {least}, sum {worst}")
    return frequencies


class FrequencyTable:
    """One alphabet 0..n-1. frequencies: integers, shape (n,), n >= 2, each at least 1, sum 2**24 (checked here)."""

    def __init__(self, frequencies: np.ndarray) -> None:
        if np.ndim(frequencies) != 1 or len(frequencies) < 2:
            raise ValueError(f"a table needs at least 2 symbols in one dimension, its shape is {np.shape(frequencies)}")
        self.frequencies = checked_frequencies(frequencies)

    def __len__(self) -> int:
        return len(self.frequencies)

    @cached_property
    def model(self) -> Any:
        """constriction's form: it gives symbol i the interval weight[i] * (2**24 - n) / sum(weight) + 1, here exactly f[i]."""
        return constriction.stream.model.Categorical((self.frequencies - 1).astype(np.float64), perfect=False)

    @cached_property
    def least_bits(self) -> float:
        """What a symbol takes at least: the ideal code length of the likeliest."""
        return float(PRECISION - np.log2(self.frequencies.max()))

    @cached_property
    def mean_bits(self) -> float:
        """What a symbol takes on average where the table is right: its entropy."""
        return float((self.frequencies * (PRECISION - np.log2(self.frequencies))).sum() / TOTAL)

    def bits(self, symbols: np.ndarray) -> float:
        """Ideal code length of `symbols` (integers in 0..n-1) in bits."""
        return float((PRECISION - np.log2(self.frequencies[symbols])).sum())


def quantize_frequencies(weights: np.ndarray) -> np.ndarray:
    """Nonnegative weights (n,) -> int64 frequencies of at least 1 that sum to 2**24, by largest remainders. For export."""
    weights = np.asarray(weights, np.float64)
    spread = weights / weights.sum() * (TOTAL - len(weights))
    frequencies = np.floor(spread).astype(np.int64)
    short = TOTAL - len(weights) - int(frequencies.sum())
    frequencies[np.argsort(frequencies - spread, kind="stable")[:short]] += 1
    return np.asarray(frequencies + 1)

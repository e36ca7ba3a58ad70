# SPDX-License-Identifier: MIT
"""Symbols of the kind "hyperprior", of a picture and of a strip, and what they stand for."""

from typing import NamedTuple

import numpy as np

from fewbits.runtime.checksum import symbols_crc
from fewbits.runtime.levels import Level

STRIDE = 16  # pixels a latent position


class Symbols(NamedTuple):
    """What a file holds: hyper int8 (hyper, rows/4, columns/4) and latent int16 (latent, rows, columns)."""

    hyper: np.ndarray
    latent: np.ndarray

    @property
    def head(self) -> np.ndarray:
        return self.hyper

    def crc(self) -> int:
        """CRC-32 over the hyper symbols as bytes, then the latent symbols as little-endian int16, both in (c, h, w) order."""
        return symbols_crc(self.hyper, self.latent)


class Quantized(NamedTuple):
    """A strip: its latent rows; symbols int16 and their scale indices uint8 (latent, rows, columns); how many have each index,
    int64 (indices,); and scaled means float32 (channels, rows, columns) of the first channels."""

    rows: slice
    symbols: np.ndarray
    indices: np.ndarray
    counts: np.ndarray
    mean: np.ndarray


def dequantized(symbols: np.ndarray, mean: np.ndarray, level: Level, rows: slice) -> np.ndarray:
    """y_hat of latent rows: the dequantized latent divided by the gains. mean: of its leading channels, or of all."""
    y_hat = symbols.astype(np.float32)
    y_hat[: len(mean)] += mean
    return level.scaled(y_hat, level.inverse_gain, rows, out=y_hat)

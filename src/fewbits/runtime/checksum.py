# SPDX-License-Identifier: MIT
"""The CRC-32 of a file's symbols from strips of them, though it runs channel by channel over all strips (docs/format.md).

CRC-32 is linear: that of two stretches of bytes follows from the CRC of each and the length of the second one. So the symbols
need never be in memory together. The stretches of all channels have one length: a table of products serves them all.
"""

import math
import zlib
from functools import lru_cache

import numpy as np

from fewbits.stages import stage

_POLYNOMIAL = 0xEDB88320  # CRC-32's, the bit of x^0 highest
_ONE = 1 << 31


def _times(a: int, b: int) -> int:
    """The product of two polynomials over GF(2), modulo CRC-32's."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


@lru_cache(maxsize=64)
def _shift(n_bytes: int) -> int:
    """x^(8 n_bytes): what a CRC is multiplied by when so many bytes follow."""
    power, square = _ONE, _ONE >> 8
    while n_bytes:
        if n_bytes & 1:
            power = _times(power, square)
        square = _times(square, square)
        n_bytes >>= 1
    return power


@lru_cache(maxsize=64)
def _products(n_bytes: int) -> tuple[tuple[int, ...], ...]:
    """_shift(n_bytes) times every polynomial, as the sum of one entry of each table: by the lowest byte, ..., by the highest."""
    product, bits = _shift(n_bytes), []
    for _ in range(32):  # times x^0, x^1, ...: of the bits of a CRC the highest first
        bits.append(product)
        product = product >> 1 ^ _POLYNOMIAL if product & 1 else product >> 1
    tables = []
    for lowest in range(31, 0, -8):
        table = [0]
        for bit in bits[lowest : lowest - 8 if lowest > 8 else None : -1]:
            table += [entry ^ bit for entry in table]
        tables.append(tuple(table))
    return tuple(tables)


def joined_crc(first: int, second: int, second_bytes: int) -> int:
    """The CRC-32 of two stretches of bytes, one after the other, from the CRC-32 of each."""
    low, below, above, high = _products(second_bytes)
    return low[first & 0xFF] ^ below[first >> 8 & 0xFF] ^ above[first >> 16 & 0xFF] ^ high[first >> 24] ^ second


class StripsChecksum:
    """CRC-32 over symbols that come before the strips, then those of all strips in the order (..., channel, row, column)."""

    def __init__(self, n_rows: int) -> None:
        """n_rows: latent rows of all strips."""
        self._planes: list[int] = []  # the CRC of each channel so far; of all of them in one where there is one strip
        self._plane_bytes = 0
        self._n_rows, self.rows = n_rows, 0  # rows seen

    @stage("checksum")
    def add(self, latent: np.ndarray) -> None:
        """The next strip from the top: integers (..., rows, columns) of the size that the format says."""
        n_planes = 1 if latent.shape[-2] == self._n_rows else math.prod(latent.shape[:-2])
        planes = [_stretch(plane) for plane in latent.reshape(n_planes, -1)]
        crcs, size = [zlib.crc32(plane) for plane in planes], planes[0].nbytes
        self._planes = (
            [joined_crc(one, other, size) for one, other in zip(self._planes, crcs, strict=True)] if self.rows else crcs
        )
        self._plane_bytes += size
        self.rows += latent.shape[-2]

    @stage("checksum")
    def value(self, head: np.ndarray) -> int:
        """The CRC-32 of `head`, integers of a byte each, and all strips."""
        total = zlib.crc32(_stretch(head))
        for plane in self._planes:
            total = joined_crc(total, plane, self._plane_bytes)
        return total


def symbols_crc(head: np.ndarray, latent: np.ndarray) -> int:
    """The same, of all strips in one."""
    return zlib.crc32(_stretch(latent), zlib.crc32(_stretch(head)))


def _stretch(symbols: np.ndarray) -> memoryview:
    """Their bytes as the format has them."""
    return np.ascontiguousarray(symbols, symbols.dtype.newbyteorder("<")).data

# SPDX-License-Identifier: MIT
"""Maps of integers <-> bytes by a context-adaptive binary arithmetic coder (docs/format.md, "Adaptive streams").

It needs no tables: it learns the distribution of each map while it codes. A value is binarized into a unary magnitude, an
Exp-Golomb rest, and a sign; the probability of each binary decision is the mean of two estimates, one from the map and the
magnitudes around the value, one from those around it and the same place in the map before. All of it is integer arithmetic, so
it is exact on every machine.

The loop over decisions is in adaptive_loop.py, which numba compiles where it is installed (the extra `fast`).
"""

import math
from typing import Any, Final

import numpy as np

from fewbits.errors import CorruptError

LARGEST: Final = (1 << 31) - 1  # magnitude of a value
RAW, CODED = 0, 1  # the first byte of a stream


def encode_maps(maps: np.ndarray) -> bytes:
    """maps: integers (n, rows, columns), magnitudes up to 2^31 - 1. Never longer than the raw values and two bytes.

    Raises ValueError on other shapes and values.
    """
    values = _checked(maps)
    if not values.size:
        return b""
    size = _bytes_each(values)
    raw = bytes([RAW, size]) + values.astype(f"<i{size}").tobytes()
    out, length, _ = _run(_loop().ENCODE, values, np.zeros(len(raw), np.uint8))  # what is longer is not kept
    return bytes([CODED]) + out[:length].tobytes() if 0 <= length < len(raw) - 1 else raw


def check_length(data: bytes, count: int) -> None:
    """Raises CorruptError where a stream is too short for so many values; for before anything is allocated for them."""
    least = 2 + count if data[:1] == bytes([RAW]) else int(count * _least_bits() / 8)
    if len(data) < least:
        raise CorruptError(f"an adaptive stream has {len(data)} bytes, its values take {least} or more: the file is damaged")


def _least_bits() -> float:
    """What a value takes at least: one decision, as likely as they become.

    The range, at least 2^24, is cut in 2^16 equal parts, and the rest, below 1/256 of it, goes to one of the two sides.
    """
    return -math.log2(1 - _loop().LEAST / 65536 * 256 / 257)


def decode_maps(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Inverse of encode_maps: int32 of that shape. Raises CorruptError."""
    count = math.prod(shape)
    if not count:
        if data:
            raise CorruptError(f"a stream of no values has {len(data)} bytes")
        return np.zeros(shape, np.int32)
    if len(data) < 2 or data[0] not in (RAW, CODED):
        raise CorruptError("an adaptive stream begins with no known kind: the file is damaged")
    if data[0] == RAW:
        size = data[1]
        if size not in (1, 2, 4) or len(data) != 2 + count * size:
            raise CorruptError(f"a raw stream of {count} values has {len(data)} bytes: the file is damaged")
        return _within_limits(np.frombuffer(data, f"<i{size}", offset=2).reshape(shape)).astype(np.int32)
    check_length(data, count)
    values = np.zeros(shape, np.int64)
    _, length, _ = _run(_loop().DECODE, values, np.frombuffer(data, np.uint8)[1:])
    if length != len(data) - 1:
        raise CorruptError(f"an adaptive stream of {len(data)} bytes was read to byte {length}: the file is damaged")
    return _within_limits(values).astype(np.int32)


def _within_limits(values: np.ndarray) -> np.ndarray:
    if not -LARGEST <= int(values.min()) <= int(values.max()) <= LARGEST:
        raise CorruptError(f"an adaptive stream holds a magnitude above {LARGEST}: the file is damaged")
    return values


def ideal_bits(maps: np.ndarray) -> float:
    """The adaptive model's own code length of the maps, in bits: the sum of -log2 of the probability of every decision."""
    values = _checked(maps)
    return float(_run(_loop().COUNT, values, np.zeros(1, np.uint8))[2]) if values.size else 0.0


def decisions(maps: np.ndarray) -> int:
    """How many binary decisions a stream of the maps takes."""
    values, n_unary = np.abs(_checked(maps)), _loop().N_UNARY
    rest = np.maximum(values - n_unary, 0) + 1
    golomb = np.where(values >= n_unary, 2 * np.floor(np.log2(rest)) + 1, 0)
    return int((np.minimum(values + 1, n_unary) + (values > 0) + golomb).sum())


def is_compiled() -> bool:
    """Whether numba compiles the loop; plain Python gives the same bytes, much slower."""
    return bool(_loop().COMPILED)


def _checked(maps: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps)
    if maps.ndim != 3 or maps.dtype.kind not in "iu":
        raise ValueError(f"maps are {maps.dtype} of shape {maps.shape}, they must be integers (n, rows, columns)")
    if maps.size and not -LARGEST <= int(maps.min()) <= int(maps.max()) <= LARGEST:
        raise ValueError(f"maps hold {int(maps.min())} to {int(maps.max())}, magnitudes must be at most {LARGEST}")
    return maps.astype(np.int64)


def _bytes_each(values: np.ndarray) -> int:
    largest = int(np.abs(values).max(initial=0))
    return 1 if largest < 1 << 7 else 2 if largest < 1 << 15 else 4


def _run(mode: int, values: np.ndarray, data: np.ndarray) -> tuple[Any, int, float]:
    """data, how much of it was used (-1: too short), and the ideal bits. In decoding `values` is filled."""
    loop, flat = _loop(), values.reshape(-1)
    states = np.tile(np.array(loop.FIRST_STATE, np.int64), loop.n_contexts(len(values)))
    arrays: list[Any] = [flat, data.astype(np.uint8), states, np.zeros(5, np.int64), np.zeros(1)]
    if not loop.COMPILED:
        arrays = [array.tolist() for array in arrays]  # which plain Python indexes several times faster
    length, bits = loop.code(mode, *values.shape, *arrays)
    flat[:] = arrays[0]
    return np.asarray(arrays[1], np.uint8), int(length), float(bits)


def _loop() -> Any:
    """Imported when first used: numba takes a second to import."""
    from fewbits.coding import adaptive_loop

    return adaptive_loop

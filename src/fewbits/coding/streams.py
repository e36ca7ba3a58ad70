# SPDX-License-Identifier: MIT
"""Range-coded streams of symbols grouped by table (docs/format.md, "Streams").

Symbols that share a table are coded together, table by table in rising order, each group in the order of its positions:
one call of the coder for a table, no loop over symbols. constriction supplies the coder (Bamler, arXiv:2201.01741).
"""

from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np

from fewbits.coding.tables import FrequencyTable
from fewbits.errors import CorruptError
from fewbits.stages import stage

ESCAPE_LIMIT = 1 << 15  # escaped values are int16
_SLACK_BITS = 64  # the coder's state: what has not gone out yet where a stream ends
_ESCAPED = constriction.stream.model.Uniform(2 * ESCAPE_LIMIT)


class SignedTable:
    """Integers -limit..limit and an escape, as symbols 0..2 * limit + 1 of `table`; the escape is the last."""

    def __init__(self, table: FrequencyTable) -> None:
        if len(table) % 2:
            raise ValueError(f"a signed table has an even number of symbols, this one has {len(table)}")
        self.table, self.limit = table, len(table) // 2 - 1

    def bits(self, values: np.ndarray) -> float:
        """Ideal code length of int values in bits, escapes included."""
        values = values.astype(np.int64)  # int16 has no magnitude of -32768
        outside = np.abs(values) > self.limit
        symbols = np.where(outside, 2 * self.limit + 1, values + self.limit)
        return self.table.bits(symbols) + 16.0 * int(outside.sum())


def _groups(rows: np.ndarray, n_tables: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions sorted by table (stable), and the bounds of each table's group (n_tables + 1)."""
    order = np.argsort(rows, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_tables))])


@stage("coder")
def encode_signed(values: np.ndarray, rows: np.ndarray, tables: Sequence[SignedTable]) -> bytes:
    """values: int16 (n,); rows: unsigned (n,), the table of each value, below len(tables). Returns the stream's bytes."""
    encoder = constriction.stream.queue.RangeEncoder()
    order, bounds = _groups(rows, len(tables))
    ordered = values[order].astype(np.int32)
    escaped = []
    for table, start, stop in zip(tables, bounds[:-1], bounds[1:], strict=True):
        if start == stop:
            continue
        group = ordered[start:stop]
        outside = np.abs(group) > table.limit
        if outside.any():
            escaped.append(group[outside])
            group = np.where(outside, table.limit + 1, group)
        encoder.encode(group + np.int32(table.limit), table.table.model)
    if escaped:
        encoder.encode(np.concatenate(escaped) + np.int32(ESCAPE_LIMIT), _ESCAPED)
    return _to_bytes(encoder)


def check_length(data: bytes, bits: float) -> None:
    """Raises CorruptError where a stream is too short for symbols that take at least so many bits.

    For before anything is allocated for them: past its end a decoder reads zeros, and would go on for as long as it is asked.
    """
    if 8 * len(data) + _SLACK_BITS < bits:
        raise CorruptError(f"a stream has {len(data)} bytes, its symbols take {int(bits / 8)} or more: the file is damaged")


@stage("coder")
def decode_signed(data: bytes, rows: np.ndarray, tables: Sequence[SignedTable]) -> np.ndarray:
    """Inverse of encode_signed, given the same rows: int16 (n,). Raises CorruptError where the stream is impossible."""
    decoder = _from_bytes(data)
    counts = np.bincount(rows, minlength=len(tables))
    check_length(data, sum(int(count) * table.table.least_bits for count, table in zip(counts, tables, strict=True) if count))
    order, bounds = _groups(rows, len(tables))
    ordered = np.empty(len(rows), np.int32)
    escaped = []
    for table, start, stop in zip(tables, bounds[:-1], bounds[1:], strict=True):
        if start == stop:
            continue
        group = _decode(decoder, table.table.model, int(stop - start)) - np.int32(table.limit)
        ordered[start:stop] = group
        escaped.append(start + np.flatnonzero(group > table.limit))
    places = np.concatenate([*escaped, np.empty(0, np.int64)]).astype(np.int64)
    if len(places):
        ordered[places] = _decode(decoder, _ESCAPED, len(places)) - np.int32(ESCAPE_LIMIT)
    values = np.empty(len(rows), np.int16)
    values[order] = ordered
    return values


@stage("coder")
def encode_planes(symbols: np.ndarray, tables: Sequence[FrequencyTable]) -> bytes:
    """symbols: non-negative integers (planes, n), plane k coded with table k."""
    encoder = constriction.stream.queue.RangeEncoder()
    for plane, table in zip(symbols, tables, strict=True):
        encoder.encode(np.ascontiguousarray(plane, np.int32), table.model)
    return _to_bytes(encoder)


@stage("coder")
def decode_planes(data: bytes, n_symbols: int, tables: Sequence[FrequencyTable]) -> np.ndarray:
    """Inverse of encode_planes: int32 (planes, n_symbols). Raises CorruptError where the stream is impossible."""
    decoder = _from_bytes(data)
    check_length(data, n_symbols * sum(table.least_bits for table in tables))
    return np.stack([_decode(decoder, table.model, n_symbols) for table in tables])


def _to_bytes(encoder: Any) -> bytes:
    return bytes(encoder.get_compressed().astype("<u4").tobytes())


def _from_bytes(data: bytes) -> Any:
    if len(data) % 4:
        raise CorruptError(f"a stream's length is {len(data)} bytes, it must be a multiple of 4")
    return constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))


def _decode(decoder: Any, model: object, n_symbols: int) -> np.ndarray:
    try:
        return np.asarray(decoder.decode(model, n_symbols))
    except (AssertionError, ValueError) as error:
        raise CorruptError("a stream holds no valid symbols: the file is damaged") from error

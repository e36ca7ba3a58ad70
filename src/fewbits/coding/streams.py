# SPDX-License-Identifier: MIT
"""Range-coded streams of symbols grouped by table (docs/format.md, "Streams").

Symbols that share a table are coded together, table by table in rising or in falling order, each group in the order of its
positions: one call of the coder for a table, no loop over symbols. constriction supplies the coder (Bamler, arXiv:2201.01741).
In falling order the beginning of a stream is of use without the rest (ADR 17).
"""

from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np

from fewbits.coding.tables import FrequencyTable
from fewbits.errors import CorruptError

ESCAPE_LIMIT = 1 << 15  # escaped values are int16
_SLACK_BITS = 64  # the coder's state: what has not gone out yet where a stream ends
_AHEAD_BYTES = 16  # after what is there of a stream; further ahead than a coder's interval has digits
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


def _groups(
    rows: np.ndarray, tables: Sequence[SignedTable], falling: bool
) -> tuple[np.ndarray, list[tuple[SignedTable, int, int]]]:
    """Positions sorted by table (stable), and for each table that has any of them the table and where its group is."""
    counts = np.bincount(rows, minlength=len(tables))
    if falling:
        rows, tables, counts = rows.dtype.type(len(tables) - 1) - rows, tables[::-1], counts[::-1]
    stops = np.cumsum(counts)
    groups = zip(tables, (stops - counts).tolist(), stops.tolist(), strict=True)
    return np.argsort(rows, kind="stable"), [group for group in groups if group[1] < group[2]]


def encode_signed(values: np.ndarray, rows: np.ndarray, tables: Sequence[SignedTable], *, falling: bool = False) -> bytes:
    """values: int16 (n,); rows: unsigned (n,), the table of each value, below len(tables). Returns the stream's bytes.

    falling: the last table goes first, and escaped values follow their table; else they follow all tables.
    """
    encoder = constriction.stream.queue.RangeEncoder()
    order, groups = _groups(rows, tables, falling)
    ordered = values[order].astype(np.int32)
    escaped: list[np.ndarray] = []
    for table, start, stop in groups:
        group = ordered[start:stop]
        outside = np.abs(group) > table.limit
        if outside.any():
            escaped.append(group[outside])
            group = np.where(outside, table.limit + 1, group)
        encoder.encode(group + np.int32(table.limit), table.table.model)
        if escaped and falling:
            encoder.encode(escaped.pop() + np.int32(ESCAPE_LIMIT), _ESCAPED)
    if escaped:
        encoder.encode(np.concatenate(escaped) + np.int32(ESCAPE_LIMIT), _ESCAPED)
    return _to_bytes(encoder)


def check_length(data: bytes, bits: float, *others: bytes) -> None:
    """Raises CorruptError where a stream is too short for symbols that take at least so many bits, or it and others together.

    For before anything is allocated for them: past its end a decoder reads zeros, and would go on for as long as it is asked.
    """
    n_bytes = len(data) + sum(map(len, others))
    if 8 * n_bytes + _SLACK_BITS * (1 + len(others)) < bits:
        raise CorruptError(f"a stream has {n_bytes} bytes, its symbols take {int(bits / 8)} or more: the file is damaged")


def decode_signed(data: bytes, rows: np.ndarray, tables: Sequence[SignedTable], *, falling: bool = False) -> np.ndarray:
    """Inverse of encode_signed, given the same rows: int16 (n,). Raises CorruptError where the stream is impossible."""
    decoder = _from_bytes(data)
    counts = np.bincount(rows, minlength=len(tables))
    check_length(data, sum(int(count) * table.table.least_bits for count, table in zip(counts, tables, strict=True) if count))
    order, groups = _groups(rows, tables, falling)
    ordered = np.empty(len(rows), np.int32)
    escaped = np.empty(0, np.int64)
    for k, (table, start, stop) in enumerate(groups, 1):
        group = _decode(decoder, table.table.model, stop - start) - np.int32(table.limit)
        ordered[start:stop] = group
        escaped = np.append(escaped, start + np.flatnonzero(group > table.limit))
        if len(escaped) and (falling or k == len(groups)):
            ordered[escaped] = _decode(decoder, _ESCAPED, len(escaped)) - np.int32(ESCAPE_LIMIT)
            escaped = escaped[:0]
    values = np.empty(len(rows), np.int16)
    values[order] = ordered
    return values


class _Certain:
    """What the beginning of a stream says, whatever follows.

    Two decoders, of the lowest and of the highest stream that begins so. A range decoder's symbols rise with its stream, so
    those on which both agree are those of every stream in between.
    """

    def __init__(self, data: bytes) -> None:
        words = data[: len(data) // 4 * 4]  # of a word in part only the least significant bytes are there
        self._ends = [_from_bytes(words), _from_bytes(words + b"\xff" * _AHEAD_BYTES)]

    def decode(self, model: object, n_symbols: int) -> np.ndarray:
        """The next symbols, at most so many; where they are fewer, nothing more is certain."""
        parts, left, step = [np.empty(0, np.int32)], n_symbols, n_symbols
        while left and step:
            step, ends = min(step, left), [end.clone() for end in self._ends]
            try:
                low, high = (_decode(end, model, step) for end in ends)
            except CorruptError:  # behind what is there; a decoder does not say where, so look for it in halves
                step //= 2
                continue
            apart = np.flatnonzero(low != high)
            if len(apart):
                parts.append(low[: apart[0]])
                break
            parts.append(low)
            left, self._ends = left - step, ends
        return np.concatenate(parts)


def decode_beginning(data: bytes, rows: np.ndarray, tables: Sequence[SignedTable]) -> np.ndarray:
    """decode_signed of a stream in falling order that was cut off: int16 (n,), 0 where what is there does not tell the value."""
    stream, (order, groups) = _Certain(data), _groups(rows, tables, falling=True)
    ordered = np.zeros(len(rows), np.int32)
    for table, start, stop in groups:
        group = stream.decode(table.table.model, stop - start) - np.int32(table.limit)
        escaped = np.flatnonzero(group > table.limit)
        group[escaped] = 0
        whole = len(group) == stop - start
        if whole and len(escaped):
            found = stream.decode(_ESCAPED, len(escaped)) - np.int32(ESCAPE_LIMIT)
            group[escaped[: len(found)]] = found
            whole = len(found) == len(escaped)
        ordered[start : start + len(group)] = group
        if not whole:
            break
    values = np.empty(len(rows), np.int16)
    values[order] = ordered
    return values


def encode_planes(symbols: np.ndarray, tables: Sequence[FrequencyTable]) -> bytes:
    """symbols: non-negative integers (planes, n), plane k coded with table k."""
    encoder = constriction.stream.queue.RangeEncoder()
    for plane, table in zip(symbols, tables, strict=True):
        encoder.encode(np.ascontiguousarray(plane, np.int32), table.model)
    return _to_bytes(encoder)


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

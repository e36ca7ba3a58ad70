# SPDX-License-Identifier: MIT
"""Range-coded streams of symbols grouped by table (docs/format.md, "Streams").

Symbols that share a table are coded together, table by table in rising order, each group in the order of its positions:
one call of the coder for a table, no loop over symbols. constriction supplies the coder (Bamler, arXiv:2201.01741).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import constriction
import numpy as np

from fewbits.coding.tables import FrequencyTable
from fewbits.errors import CorruptError
from fewbits.stages import stage

ESCAPE_LIMIT = 1 << 15  # escaped values are int16
_SLACK_BITS = 64  # the coder's state: what has not gone out yet where a stream ends
ESCAPED = constriction.stream.model.Uniform(2 * ESCAPE_LIMIT)


class Reader(Protocol):
    """What reads a stream."""

    def decode(self, model: object, n_symbols: int) -> np.ndarray:
        """The next symbols, int32; fewer where no more are known. Raises CorruptError."""

    def expect(self, bits: float) -> None:
        """What comes next takes so many bits or more. Raises CorruptError where a stream is too short for it."""


class SignedTable:
    """Integers -limit..limit and an escape, as symbols 0..2 * limit + 1 of `table`; the escape is the last."""

    def __init__(self, table: FrequencyTable) -> None:
        if len(table) % 2:
            raise ValueError(f"a signed table has an even number of symbols, this one has {len(table)}")
        self.table, self.limit, self.least_bits = table, len(table) // 2 - 1, table.least_bits

    def bits(self, values: np.ndarray) -> float:
        """Ideal code length of int values in bits, escapes included."""
        values = values.astype(np.int64)  # int16 has no magnitude of -32768
        outside = np.abs(values) > self.limit
        symbols = np.where(outside, 2 * self.limit + 1, values + self.limit)
        return self.table.bits(symbols) + 16.0 * int(outside.sum())


def counted(rows: np.ndarray, n_tables: int) -> np.ndarray:
    """How many of `rows`, unsigned and below n_tables, there are of each: int64 (n_tables,).

    Bytes are counted two at a time where there are more than pairs can be, as np.bincount makes an int64 of each entry.
    """
    rows, n_pairs = rows.ravel(), 256 * n_tables
    if rows.dtype != np.uint8 or len(rows) < n_pairs:
        return np.bincount(rows, minlength=n_tables)
    half = len(rows) // 2 * 2
    pairs = np.bincount(rows[:half].view(np.uint16), minlength=n_pairs).reshape(n_tables, 256)
    by_either: np.ndarray = pairs.sum(1) + pairs[:, :n_tables].sum(0)
    return by_either + np.bincount(rows[half:], minlength=n_tables)


def _groups(rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions sorted by table (stable), and the bounds of each table's group (tables + 1). counts: the values of each."""
    return np.argsort(rows, kind="stable"), np.concatenate([[0], np.cumsum(counts)])


@stage("coder")
def encode_signed(values: np.ndarray, rows: np.ndarray, tables: Sequence[SignedTable]) -> bytes:
    """values: int16 (n,); rows: unsigned (n,), the table of each value, below len(tables). Returns the stream's bytes."""
    encoder = constriction.stream.queue.RangeEncoder()
    order, bounds = _groups(rows, counted(rows, len(tables)))
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
        encoder.encode(np.concatenate(escaped) + np.int32(ESCAPE_LIMIT), ESCAPED)
    return stream_of(encoder)


def check_length(data: bytes, bits: float, *others: bytes) -> None:
    """Raises CorruptError where a stream, or it and others together, are too short for symbols that take at least so many bits.

    For before anything is allocated for them: past its end a decoder reads zeros, and would go on for as long as it is asked.
    """
    n_bytes = len(data) + sum(map(len, others))
    if 8 * n_bytes + _SLACK_BITS * (1 + len(others)) < bits:
        raise CorruptError(f"a stream has {n_bytes} bytes, its symbols take {int(bits / 8)} or more: the file is damaged")


@stage("coder")
def decode_signed(data: bytes, rows: np.ndarray, tables: Sequence[SignedTable]) -> np.ndarray:
    """Inverse of encode_signed, given the same rows: int16 (n,). Raises CorruptError where the stream is impossible."""
    decoder = decoder_of(data)
    counts = counted(rows, len(tables))
    check_length(data, sum(int(count) * table.least_bits for count, table in zip(counts, tables, strict=True) if count))
    order, bounds = _groups(rows, counts)
    ordered = np.empty(len(rows), np.int32)
    escaped = []
    for table, start, stop in zip(tables, bounds[:-1], bounds[1:], strict=True):
        if start == stop:
            continue
        group = decode_symbols(decoder, table.table.model, int(stop - start)) - np.int32(table.limit)
        ordered[start:stop] = group
        escaped.append(start + np.flatnonzero(group > table.limit))
    places = np.concatenate([*escaped, np.empty(0, np.int64)]).astype(np.int64)
    if len(places):
        ordered[places] = decode_symbols(decoder, ESCAPED, len(places)) - np.int32(ESCAPE_LIMIT)
    values = np.empty(len(rows), np.int16)
    values[order] = ordered
    return values


def decode_escaped(reader: Reader, values: np.ndarray, limit: int) -> None:
    """Replace the values of a group that are beyond `limit` by those that follow in the stream, in place; by 0 where it ends."""
    escaped = np.flatnonzero(values > limit)
    if len(escaped):
        found = reader.decode(ESCAPED, len(escaped)) - np.int32(ESCAPE_LIMIT)
        values[escaped] = 0
        values[escaped[: len(found)]] = found


@stage("coder")
def encode_planes(symbols: Sequence[np.ndarray], tables: Sequence[FrequencyTable]) -> bytes:
    """symbols: planes of non-negative integers (n,), plane k coded with table k."""
    encoder = constriction.stream.queue.RangeEncoder()
    for plane, table in zip(symbols, tables, strict=True):
        encoder.encode(np.ascontiguousarray(plane, np.int32), table.model)
    return stream_of(encoder)


@stage("coder")
def decode_planes(data: bytes, sizes: Sequence[int], tables: Sequence[FrequencyTable]) -> list[np.ndarray]:
    """Inverse of encode_planes: of each plane so many, int32 (n,). Raises CorruptError where the stream is impossible."""
    decoder = decoder_of(data)
    check_length(data, sum(size * table.least_bits for size, table in zip(sizes, tables, strict=True)))
    return [decode_symbols(decoder, table.model, size) for size, table in zip(sizes, tables, strict=True)]


def stream_of(encoder: Any) -> bytes:
    """The stream of constriction's RangeEncoder."""
    return bytes(encoder.get_compressed().astype("<u4").tobytes())


def decoder_of(data: bytes) -> Any:
    """constriction's RangeDecoder of a stream. Raises CorruptError."""
    if len(data) % 4:
        raise CorruptError(f"a stream's length is {len(data)} bytes, it must be a multiple of 4")
    return constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))


def decode_symbols(decoder: Any, model: object, n_symbols: int) -> np.ndarray:
    """The next symbols of a stream, int32 (n_symbols,). Raises CorruptError."""
    try:
        return np.asarray(decoder.decode(model, n_symbols))
    except (AssertionError, ValueError) as error:
        raise CorruptError("a stream holds no valid symbols: the file is damaged") from error

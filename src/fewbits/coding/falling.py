# SPDX-License-Identifier: MIT
"""Streams whose symbols are in falling order of their tables, so that their beginning is of use without the rest (ADR 17).

As in streams.py symbols that share a table are coded together; but the last table, of the largest scales, goes first, and escaped
values follow the symbols of their table. One after the other, several streams can share the tables.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeGuard

import constriction
import numpy as np

from fewbits.coding.runs import FEWEST, RunTable
from fewbits.coding.streams import (
    ESCAPE_LIMIT,
    ESCAPED,
    SignedTable,
    check_length,
    counted,
    decode_escaped,
    decode_symbols,
    decoder_of,
    stream_of,
)
from fewbits.container import Cut
from fewbits.errors import CorruptError
from fewbits.stages import stage
from fewbits.threads import beside

_MOST: Final = 0.55  # the share of coded values from which on sorting all of them takes less than finding those
# So many values take longer to look at than a thread takes to begin; and of more the memory of a second thread, which the process
# keeps, would be more than it is worth.
_BESIDE: Final = range(150_000, 2_000_000)
_FEW: Final = 64  # so many symbols are decoded one by one where a stream may end: to go back takes a copy of the whole stream
_AHEAD_BYTES: Final = 16  # after what is there of a stream: further than the ends of an interval have digits


class _Group(NamedTuple):
    """The values from `start` to `stop`, in the order of the stream, that share a table."""

    table: SignedTable
    start: int
    stop: int


def _order(rows: np.ndarray, counts: np.ndarray, first: int, *, meanwhile: bool = False) -> Callable[[], np.ndarray]:
    """Positions of those whose table is `first` or a later one, by falling table, stable.

    counts: of the values of each table. meanwhile: whether a thread of its own may sort until they are asked for. That is one
    call of numpy, which needs no lock: for a second one it would wait for the coder, which does not let go of it.
    """
    n_coded, last = int(counts[first:].sum()), rows.dtype.type(len(counts) - 1)
    if meanwhile and len(rows) in _BESIDE:
        found = beside(partial(np.argsort, last - rows, kind="stable"))
        return lambda: found()[:n_coded]  # those not coded come last
    if n_coded > _MOST * len(rows):
        order = np.argsort(last - rows, kind="stable")[:n_coded]
    else:
        positions = np.flatnonzero(rows >= first)
        order = positions.take(np.argsort(last - rows.take(positions), kind="stable"))
    return lambda: order


def _groups(counts: np.ndarray, tables: Sequence[SignedTable], ranges: Sequence[range]) -> list[list[_Group]]:
    """Those of each range of tables that are not empty, in the order of the streams."""
    starts = (np.cumsum(counts[::-1])[::-1] - counts).tolist()
    return [[_Group(tables[k], starts[k], starts[k] + int(counts[k])) for k in reversed(part) if counts[k]] for part in ranges]


@stage("coder")
def encode_falling(
    values: np.ndarray,
    rows: np.ndarray,
    tables: Sequence[SignedTable],
    ranges: Sequence[range],
    counts: np.ndarray | None = None,
) -> list[bytes]:
    """Values int16 (n,) to a stream for each range of tables. rows: unsigned (n,), the table of each value.

    ranges: one after the other from the last table down; values whose table is in none of them are left out.
    counts: integers (tables,), how many values each has, where that is known already.
    """
    counts = counted(rows, len(tables)) if counts is None else counts
    ordered = values.take(_order(rows, counts, ranges[-1].start)()).astype(np.int32)
    parts = _groups(counts, tables, ranges)
    starts = np.array([group.start for groups in parts for group in groups], np.int64)
    largest = iter(np.maximum.reduceat(np.abs(ordered), starts).tolist())  # of each group: most have no escapes, and are small
    streams = []
    for groups in parts:
        encoder = constriction.stream.queue.RangeEncoder()
        for table, start, stop in groups:
            group, magnitude = ordered[start:stop], next(largest)
            if _by_runs(table, len(group)):
                table.encode(encoder, group)
                continue
            if magnitude <= table.limit:
                encoder.encode(group + np.int32(table.limit), table.table.model)
                continue
            outside = np.abs(group) > table.limit
            encoder.encode(np.where(outside, table.limit + 1, group) + np.int32(table.limit), table.table.model)
            encoder.encode(group[outside] + np.int32(ESCAPE_LIMIT), ESCAPED)
        streams.append(stream_of(encoder))
    return streams


@stage("coder")
def decode_falling(
    streams: Sequence[bytes | Cut],
    rows: np.ndarray,
    tables: Sequence[SignedTable],
    ranges: Sequence[range],
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """Inverse of encode_falling: int16 (n,); 0 for values that were left out, or that a stream which was cut does not tell.

    Raises CorruptError where a stream is impossible, before more is decoded than one that is there as a whole can hold.
    """
    counts = counted(rows, len(tables)) if counts is None else counts
    first = ranges[-1].start
    order, ordered = _order(rows, counts, first, meanwhile=True), np.zeros(int(counts[first:].sum()), np.int16)
    n_dense, places, others = 0, [np.empty(0, np.int64)], [np.empty(0, np.int32)]  # the latter: of groups that are nearly all 0
    for stream, groups in zip(streams, _groups(counts, tables, ranges), strict=True):
        reader = _Beginning(stream.there) if isinstance(stream, Cut) else _Whole(stream)
        sizes = [(table, stop - start) for table, start, stop in groups]
        reader.expect(sum(n * table.table.least_bits for table, n in sizes if not _by_runs(table, n)))
        for table, start, stop in groups:
            if _by_runs(table, stop - start):
                within, found = table.decode(reader, stop - start)
                places.append(start + within)
                others.append(found)
                continue
            group = reader.decode(table.table.model, stop - start) - np.int32(table.limit)
            decode_escaped(reader, group, table.limit)
            ordered[start : start + len(group)] = group
            n_dense = stop
    values, positions = np.zeros(len(rows), np.int16), order()
    values[positions[:n_dense]] = ordered[:n_dense]
    values[positions[np.concatenate(places)]] = np.concatenate(others)
    return values


def _by_runs(table: SignedTable, n: int) -> TypeGuard[RunTable]:
    """Whether a group of n values is coded so."""
    return isinstance(table, RunTable) and n >= FEWEST


class _Whole:
    """A stream that is there as a whole."""

    def __init__(self, data: bytes) -> None:
        self._data, self._bits, self._decoder = data, 0.0, decoder_of(data)

    def expect(self, bits: float) -> None:
        """Symbols that take so many bits or more. Raises CorruptError where the stream is too short for all that was expected."""
        self._bits += bits
        check_length(self._data, self._bits)

    def decode(self, model: object, n_symbols: int) -> np.ndarray:
        """The next symbols. Raises CorruptError."""
        return decode_symbols(self._decoder, model, n_symbols)


class _Beginning:
    """What the beginning of a stream says, whatever follows.

    Two decoders, of the lowest and of the highest stream that begins so. A range decoder's symbols rise with its stream, so those
    on which both agree are those of every stream in between.
    """

    def __init__(self, data: bytes) -> None:
        words = data[: len(data) // 4 * 4]  # of a word in part only the least significant bytes are there
        self._ends: list[Any] = [decoder_of(words), decoder_of(words + b"\xff" * _AHEAD_BYTES)]
        self._over = not words

    def expect(self, bits: float) -> None:
        """As _Whole does. What is there may be too short for anything."""

    def decode(self, model: object, n_symbols: int) -> np.ndarray:
        """The next symbols, as many of them as are certain. Where they are fewer than asked for, none come after."""
        parts, left, step = [np.empty(0, np.int32)], n_symbols, n_symbols
        while left and not self._over:
            step = min(step, left) if min(step, left) > _FEW else 1
            ends = [end.clone() for end in self._ends] if step > 1 else self._ends  # where one fails, none come after
            try:
                low, high = (decode_symbols(end, model, step) for end in ends)
            except CorruptError:  # behind what is there. Decoders do not say where: look for it in halves
                step //= 2
                self._over = not step
                continue
            apart = np.flatnonzero(low != high)
            self._over = bool(len(apart))
            parts.append(low[: apart[0]] if self._over else low)
            left, self._ends = left - step, ends
        return np.concatenate(parts)

# SPDX-License-Identifier: MIT
"""Groups of values most of which are 0, in fewer symbols than values: how many are not 0, how many zeros come before each of
those, and what they are (docs/format.md, "Runs"; ADR 31).

The bits are the same: where values are independent, as those that share a table are taken to be, the lengths of runs of zeros are
distributed geometrically (Golomb, IEEE Trans. Inf. Theory 1966). But the coder takes as long for a symbol that tells little.
"""

from functools import cached_property
from math import isqrt
from typing import Any, Final

import constriction
import numpy as np

from fewbits.coding.streams import ESCAPE_LIMIT, ESCAPED, Reader, SignedTable, decode_escaped
from fewbits.coding.tables import PRECISION, TOTAL, FrequencyTable
from fewbits.errors import CorruptError

FEWEST: Final = 512  # values of a group that is coded so: to tell the number of others takes some bits more than it saves
LONGEST: Final = 255  # the length of a run that one symbol stands for, where its table reaches so far
_LEAST: Final = 256  # frequency of all longer runs from which on another length has a symbol
_HALF_BITS: Final = 16  # of an unlikely number
_HALF: Final = constriction.stream.model.Uniform(1 << _HALF_BITS)


class RunTable(SignedTable):
    """A signed table of which 0 has at least half of all frequencies, and whose groups are coded by runs."""

    def __init__(self, table: FrequencyTable) -> None:
        super().__init__(table)
        self.least_bits = 0.0  # of a value: all may be 0
        self._zero = int(table.frequencies[self.limit])
        if self.limit < 1 or 2 * self._zero < TOTAL:
            raise ValueError(f"a table of limit {self.limit} whose 0 has the frequency {self._zero}, for runs of zeros")

    @cached_property
    def _runs(self) -> FrequencyTable:
        """0, 1, ... zeros before another value; the last symbol stands for as many zeros, and more to come."""
        longer = [TOTAL]
        while len(longer) <= LONGEST and longer[-1] >= _LEAST:
            longer.append(longer[-1] * self._zero >> PRECISION)
        return FrequencyTable(np.append(-np.diff(longer), longer[-1]))

    @cached_property
    def _others(self) -> FrequencyTable:
        """-limit..limit without 0, and the escape; what rounding leaves is 1's."""
        found = np.delete(self.table.frequencies, self.limit) * TOTAL // (TOTAL - self._zero)
        found[self.limit] += TOTAL - found.sum()
        return FrequencyTable(found)

    @cached_property
    def _least_bits_of_other(self) -> float:
        """What a value takes at least that is not 0: a run's last symbol, and its own."""
        return float(PRECISION - np.log2(self._runs.frequencies[:-1].max())) + self._others.least_bits

    def _likely(self, n: int) -> range:
        """How many of n values may well be not 0."""
        expected = n * (TOTAL - self._zero) >> PRECISION
        reach = 4 * isqrt(expected) + 4
        return range(max(0, expected - reach), min(n, expected + reach) + 1)

    def encode(self, encoder: Any, group: np.ndarray) -> None:
        """int32 (n,), n > 0."""
        places = np.flatnonzero(group)
        self._encode_number(encoder, len(places), len(group))
        if not len(places):
            return
        lengths, longest = np.empty(len(places), np.int32), len(self._runs) - 1
        lengths[0] = places[0]
        np.subtract(places[1:], places[:-1] + 1, out=lengths[1:], casting="same_kind")
        long = np.flatnonzero(lengths >= longest)
        if len(long):
            whole, lengths[long] = np.divmod(lengths[long], longest)
            lengths = np.insert(lengths, np.repeat(long, whole), longest)
        encoder.encode(lengths, self._runs.model)
        others = group.take(places)
        escaped = others[np.abs(others) > self.limit]
        np.clip(others, -self.limit - 1, self.limit + 1, out=others)
        others += np.int32(self.limit)
        others -= others > self.limit
        others[others < 0] = 2 * self.limit
        encoder.encode(others, self._others.model)
        if len(escaped):
            encoder.encode(escaped + np.int32(ESCAPE_LIMIT), ESCAPED)

    def decode(self, reader: Reader, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Of n values the places int64 of those that are known and not 0, and what they are, int32. Raises CorruptError."""
        n_others, longest, parts, reached = self._decode_number(reader, n), len(self._runs) - 1, [], 0
        reader.expect(n_others * self._least_bits_of_other)
        missing = n_others
        while missing:
            lengths = reader.decode(self._runs.model, missing)
            parts.append(lengths)
            n_ends = int(np.count_nonzero(lengths < longest))
            reached += int(lengths.sum(dtype=np.int64)) + n_ends
            if reached > n:
                raise CorruptError("a stream's runs of zeros are longer than it has values: the file is damaged")
            if len(lengths) < missing:
                break
            missing -= n_ends
        lengths = np.concatenate([np.empty(0, np.int32), *parts])
        ends = lengths < longest
        places = np.cumsum(lengths + ends, dtype=np.int64)[ends] - 1
        symbols = reader.decode(self._others.model, n_others)
        values = symbols - np.int32(self.limit) + (symbols >= self.limit)
        decode_escaped(reader, values, self.limit)
        return places[: len(values)], values

    def _encode_number(self, encoder: Any, number: int, n: int) -> None:
        likely = self._likely(n)
        symbol = number - likely.start if number in likely else len(likely)
        encoder.encode(np.array([symbol], np.int32), constriction.stream.model.Uniform(len(likely) + 1))
        if number not in likely:
            halves = [number >> _HALF_BITS, number & (1 << _HALF_BITS) - 1]
            encoder.encode(np.array(halves, np.int32), _HALF)

    def _decode_number(self, reader: Reader, n: int) -> int:
        """0 where it is not known."""
        likely = self._likely(n)
        found = reader.decode(constriction.stream.model.Uniform(len(likely) + 1), 1)
        if not len(found) or found[0] < len(likely):
            return likely.start + int(found[0]) if len(found) else 0
        halves = reader.decode(_HALF, 2)
        number = (int(halves[0]) << _HALF_BITS) + int(halves[1]) if len(halves) == 2 else 0
        if number > n:
            raise CorruptError(f"a stream has {number} values in a group of {n}: the file is damaged")
        return number

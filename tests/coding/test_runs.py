# SPDX-License-Identifier: MIT
"""Groups that are nearly all 0, by runs: decode undoes encode, in as many bits as before, and what cannot be is refused."""

import constriction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.coding.runs import FEWEST, LONGEST, RunTable
from fewbits.coding.streams import ESCAPE_LIMIT, ESCAPED, decode_symbols, decoder_of, stream_of
from fewbits.coding.tables import TOTAL, FrequencyTable
from fewbits.errors import CorruptError


def table(*others: float, zero: float) -> RunTable:
    """0 with the chance `zero`; +-1, +-2, ... in the proportions of `others`, the last of which is the escape's."""
    *magnitudes, escape = np.array(others) / (2 * sum(others[:-1]) + others[-1]) * (1 - zero)
    weights = np.array([*magnitudes[::-1], zero, *magnitudes, escape])
    frequencies = np.maximum(1, np.floor(weights * TOTAL)).astype(np.int64)
    frequencies[len(magnitudes)] += TOTAL - frequencies.sum()
    return RunTable(FrequencyTable(frequencies))


TABLES = {zero: table(90, 9, 1, zero=zero) for zero in (0.51, 0.72, 0.9, 0.98, 0.9999)}
SMALL = table(1, 1e-6, zero=0.8)


class Decoder:
    """A stream that is there as a whole, or of which no more than so many symbols are known."""

    def __init__(self, data: bytes, known: int | None = None) -> None:
        self._decoder, self._left = decoder_of(data), known

    def expect(self, bits: float) -> None:
        self.expected = bits

    def decode(self, model: object, n_symbols: int) -> np.ndarray:
        n = n_symbols if self._left is None else min(n_symbols, self._left)
        self._left = self._left if self._left is None else 0 if n < n_symbols else self._left - n
        return decode_symbols(self._decoder, model, n)


def coded(signed: RunTable, group: np.ndarray) -> bytes:
    encoder = constriction.stream.queue.RangeEncoder()
    signed.encode(encoder, group.astype(np.int32))
    return stream_of(encoder)


def decoded(signed: RunTable, data: bytes, n: int, known: int | None = None) -> np.ndarray:
    values = np.zeros(n, np.int32)
    places, found = signed.decode(Decoder(data, known), n)
    values[places] = found
    return values


def drawn(zero: float, n: int, seed: int = 0) -> np.ndarray:
    """Values as a table expects them, none of them escaped."""
    frequencies = TABLES[zero].table.frequencies[:-1]
    return np.random.default_rng(seed).choice(np.arange(-2, 3), n, p=frequencies / frequencies.sum())


int16 = st.one_of(st.integers(-3, 3), st.integers(-32768, 32767), st.sampled_from([-32768, 32767]))
runs = st.lists(st.tuples(st.sampled_from([0, 1, LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST, 900]), int16), max_size=40)


@given(st.sampled_from([*TABLES.values(), SMALL]), runs, st.integers(0, 700))
def test_decoding_undoes_encoding(signed: RunTable, runs: list[tuple[int, int]], rest: int) -> None:
    parts = [np.append(np.zeros(n, np.int32), value) for n, value in runs]
    group = np.concatenate([*parts, np.zeros(rest + 1, np.int32)])
    assert np.array_equal(decoded(signed, coded(signed, group), len(group)), group)


@pytest.mark.parametrize("zero", TABLES)
@pytest.mark.parametrize("n", [1, FEWEST, 40_000])
def test_as_many_bits_as_value_by_value_and_fewer_symbols(zero: float, n: int) -> None:
    signed, group = TABLES[zero], drawn(zero, n)
    bits, symbols = 8 * len(coded(signed, group)), []

    class Counting(Decoder):
        def decode(self, model: object, n_symbols: int) -> np.ndarray:
            symbols.append(n_symbols)
            return super().decode(model, n_symbols)

    reader = Counting(coded(signed, group))
    signed.decode(reader, n)
    assert reader.expected < bits
    assert bits <= signed.bits(group) * 1.0005 + 12 + 32, "the number of others, and the last word"
    assert sum(symbols) <= 2.1 * np.count_nonzero(group) + n / LONGEST + 4


def test_a_table_for_every_chance_of_zero_and_every_limit() -> None:
    for zero in (0.5, 0.500001, 0.6, 0.99, 0.999999):
        for magnitudes in ((1.0,), tuple(2.0**-k for k in range(20))):
            signed = table(*magnitudes, 1e-9, zero=zero)
            group = np.random.default_rng(0).integers(-1, 2, 700) * (np.arange(700) % 9 == 0)
            assert np.array_equal(decoded(signed, coded(signed, group), 700), group)


@pytest.mark.parametrize("frequencies", [[1, TOTAL // 2 - 1, 1, TOTAL // 2 - 1], [TOTAL - 1, 1]], ids=["rare", "alone"])
def test_a_table_whose_values_are_not_mostly_0_is_refused(frequencies: list[int]) -> None:
    with pytest.raises(ValueError, match="for runs of zeros"):
        RunTable(FrequencyTable(np.array(frequencies)))


@pytest.mark.parametrize("known", range(0, 130, 7))
def test_what_is_known_of_a_beginning_is_true(known: int) -> None:
    group = drawn(0.9, 600)
    group[::100] = 3000
    found = decoded(TABLES[0.9], coded(TABLES[0.9], group), 600, known)
    n_others = np.count_nonzero(group)
    assert ((found == group) | (found == 0)).all()
    assert found.any() == (known > 1 + n_others), "the number, the runs, then the values"


def test_whatever_a_stream_has_is_a_group_or_an_error() -> None:
    rng, errors = np.random.default_rng(0), set()
    for _ in range(300):
        signed = TABLES[rng.choice(list(TABLES))]
        try:
            found = decoded(signed, rng.bytes(4 * int(rng.integers(0, 40))), 600)
            assert np.abs(found).max() <= ESCAPE_LIMIT
        except CorruptError as error:
            errors.add(str(error).split("runs")[0].split("values")[0])
    assert len(errors) >= 1


def numbered(signed: RunTable, n: int, number: int) -> bytes:
    """A stream that says that so many of n values, an unlikely number, are not 0, and no more."""
    encoder = constriction.stream.queue.RangeEncoder()
    likely = signed._likely(n)
    encoder.encode(np.array([len(likely)], np.int32), constriction.stream.model.Uniform(len(likely) + 1))
    encoder.encode(np.array([number >> 16, number & 65535], np.int32), constriction.stream.model.Uniform(65536))
    return stream_of(encoder)


def test_more_values_than_there_are_and_runs_beyond_them_are_refused() -> None:
    signed = TABLES[0.9]
    with pytest.raises(CorruptError, match="a stream has 601 values in a group of 600"):
        decoded(signed, numbered(signed, 600, 601), 600)
    assert np.count_nonzero(decoded(signed, numbered(signed, 600, 600), 600)) <= 600
    group = np.zeros(900, np.int32)
    group[[0, 899]] = 1
    number = signed._likely(900)
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(np.array([60], np.int32), constriction.stream.model.Uniform(len(number) + 1))
    encoder.encode(np.full(200, 40, np.int32), signed._runs.model)
    with pytest.raises(CorruptError, match="runs of zeros are longer than it has values"):
        decoded(signed, stream_of(encoder), 900)


def test_escapes_follow_the_group() -> None:
    """docs/format.md: all values, then those that escaped."""
    signed, group = TABLES[0.72], np.zeros(600, np.int32)
    group[[5, 17]], group[400] = (900, -900), 1
    reader = Decoder(coded(signed, group))
    number = signed._likely(600)
    assert reader.decode(constriction.stream.model.Uniform(len(number) + 1), 1)[0] == len(number), "3 is unlikely"
    assert reader.decode(constriction.stream.model.Uniform(65536), 2).tolist() == [0, 3]
    lengths = reader.decode(signed._runs.model, 3)
    longest = len(signed._runs) - 1
    assert lengths.tolist()[:2] == [5, 11] and 382 > longest == lengths[2]
    reader.decode(signed._runs.model, 382 // longest)
    assert reader.decode(signed._others.model, 3).tolist() == [4, 4, 2]
    assert (reader.decode(ESCAPED, 2) - ESCAPE_LIMIT).tolist() == [900, -900]

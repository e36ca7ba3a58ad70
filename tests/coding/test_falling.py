# SPDX-License-Identifier: MIT
"""Streams in falling order: decode undoes encode, and what is decoded of a beginning is what the whole says."""

import itertools

import constriction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.coding import falling
from fewbits.coding.falling import decode_falling, encode_falling
from fewbits.coding.runs import FEWEST, RunTable
from fewbits.coding.streams import SignedTable, encode_signed, stream_of
from fewbits.coding.tables import FrequencyTable, quantize_frequencies
from fewbits.container import Cut
from fewbits.errors import CorruptError


def bell(limit: int, scale: float) -> SignedTable:
    """A table of -limit..limit, falling with the magnitude, and a rare escape."""
    weights = np.floor(2**30 / (1 + (np.arange(-limit, limit + 1) / scale) ** 4))
    return SignedTable(FrequencyTable(quantize_frequencies(np.append(weights, 1024))))


TABLES = [bell(1, 0.1), bell(3, 0.7), bell(20, 4.0), bell(300, 60.0)]
ALL = [range(len(TABLES))]
SPARSE: list[SignedTable] = [*(RunTable(table.table) for table in TABLES[:2]), *TABLES[2:]]

int16 = st.one_of(st.integers(-2, 2), st.integers(-400, 400), st.integers(-32768, 32767), st.sampled_from([-32768, 32767]))
coded = st.lists(st.tuples(int16, st.integers(0, len(TABLES) - 1)), max_size=200)
bounds = st.lists(st.integers(0, len(TABLES)), max_size=3).map(lambda cuts: [len(TABLES), *sorted(cuts, reverse=True), 0])


def split(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([value for value, _ in pairs], np.int16), np.array([row for _, row in pairs], np.uint8)


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values as the tables expect them, none of them escaped."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(TABLES), n).astype(np.uint8)
    values = np.zeros(n, np.int16)
    for k, table in enumerate(TABLES):
        chances = table.table.frequencies[:-1] / table.table.frequencies[:-1].sum()
        values[rows == k] = rng.choice(np.arange(-table.limit, table.limit + 1), int((rows == k).sum()), p=chances)
    return values, rows


@given(coded, bounds)
def test_decoding_undoes_encoding_in_any_passes(pairs: list[tuple[int, int]], bounds: list[int]) -> None:
    values, rows = split(pairs)
    ranges = [range(first, stop) for stop, first in zip(bounds[:-1], bounds[1:], strict=True)]
    streams = encode_falling(values, rows, TABLES, ranges)
    assert len(streams) == len(ranges) and all(len(stream) % 4 == 0 for stream in streams)
    assert np.array_equal(decode_falling(streams, rows, TABLES, ranges), values)


@given(coded, st.integers(0, len(TABLES) - 1), st.integers(0, 800))
def test_values_of_tables_in_no_range_are_left_out(pairs: list[tuple[int, int]], first: int, n_others: int) -> None:
    """Many of them or few: the ones that are coded are found in two ways."""
    values, rows = split(pairs)
    others = np.random.default_rng(len(pairs)).integers(0, max(first, 1), n_others).astype(np.uint8)
    mixed = np.random.default_rng(n_others).permutation(len(values) + n_others)
    values, rows = np.append(values, np.full(n_others, 7, np.int16))[mixed], np.append(rows, others)[mixed]
    kept = rows >= first
    ranges = [range(first, len(TABLES))]
    [stream] = encode_falling(values, rows, TABLES, ranges)
    assert [stream] == encode_falling(values[kept], rows[kept], TABLES, ranges)
    assert np.array_equal(decode_falling([stream], rows, TABLES, ranges), np.where(kept, values, 0))


@given(st.integers(0, 300), st.integers(0, 9))
def test_without_escapes_it_is_the_rising_order_of_the_tables_turned_round(n: int, seed: int) -> None:
    values, rows = drawn(n, seed)
    [stream] = encode_falling(values, rows, TABLES, ALL)
    assert stream == encode_signed(values, (len(TABLES) - 1 - rows).astype(np.uint8), TABLES[::-1])


def test_escapes_follow_their_table() -> None:
    """docs/format.md, in one stream: 301 of table 3 escapes, then its value, then what table 0 has."""
    values, rows = np.array([0, 301], np.int16), np.array([0, 3], np.uint8)
    [stream] = encode_falling(values, rows, TABLES, ALL)
    frequencies = [TABLES[3].table.frequencies, np.full(65536, 256), TABLES[0].table.frequencies]
    low, width = 0.0, 1.0  # of the unit interval
    for symbol, table in zip([601, 301 + 32768, 1], frequencies, strict=True):
        low, width = low + width * table[:symbol].sum() / 2**24, width * table[symbol] / 2**24
    words = np.frombuffer(stream, "<u4")
    assert low - 1e-9 <= words[0] / 2**32 + (words[1] / 2**64 if len(words) > 1 else 0) < low + width + 1e-9


@given(coded, st.integers(0, 700))
def test_what_a_beginning_tells_is_true(pairs: list[tuple[int, int]], n_bytes: int) -> None:
    values, rows = split(pairs)
    [stream] = encode_falling(values, rows, TABLES, ALL)
    found = decode_falling([Cut(stream[:n_bytes])], rows, TABLES, ALL)
    assert ((found == values) | (found == 0)).all()


@pytest.mark.parametrize("escapes", [False, True])
def test_a_beginning_tells_all_but_its_last_bits(escapes: bool) -> None:
    values, rows = drawn(3000)
    if escapes:
        values[::50] = 999
    [stream] = encode_falling(values, rows, TABLES, ALL)
    order = sorted(range(len(rows)), key=lambda k: -int(rows[k]))
    before, known = -1, 0
    for n_bytes in range(0, len(stream) + 1, 29):
        found = decode_falling([Cut(stream[:n_bytes])], rows, TABLES, ALL)
        known = int((found[order] == values[order]).cumprod().sum()) if n_bytes < len(stream) else len(rows)
        assert known >= before
        bits, before = 0.0, known
        for place in order[: known + 1]:  # one more would not fit
            bits += TABLES[rows[place]].bits(values[place : place + 1])
        assert escapes or bits > 8 * n_bytes - 64, "the last words of what is there are in doubt, no more"
        assert known == 0 or bits < 8 * n_bytes + 64
    assert np.array_equal(decode_falling([Cut(stream + bytes(8))], rows, TABLES, ALL), values)


@pytest.mark.parametrize("there", [b"", b"\xff" * 3, b"\xff" * 40, bytes(40), b"\x55" * 41])
def test_any_beginning_is_read(there: bytes) -> None:
    _, rows = drawn(500)
    assert decode_falling([Cut(there)], rows, TABLES, ALL).shape == (500,)


def test_whole_streams_that_are_too_short_or_odd_are_refused() -> None:
    values, rows = drawn(2000)
    ranges = [range(2, 4), range(2)]
    streams = encode_falling(values, rows, TABLES, ranges)
    for bad in ([streams[0][:40], streams[1]], [streams[0], b""], [b"", streams[1]]):
        with pytest.raises(CorruptError, match="or more: the file is damaged"):
            decode_falling(bad, rows, TABLES, ranges)
    with pytest.raises(CorruptError, match="multiple of 4"):
        decode_falling([streams[0] + b"\0", streams[1]], rows, TABLES, ranges)
    cut = decode_falling([streams[0], Cut(b"")], rows, TABLES, ranges)
    assert np.array_equal(cut, np.where(rows >= 2, values, 0)), "a stream that is there as a whole needs no other"


@pytest.mark.parametrize("n", [FEWEST, 3000, 40_000])
def test_large_groups_of_mostly_zeros_are_coded_by_runs(n: int) -> None:
    """In any passes, in as many bits; and what is too small for it as without."""
    values, rows = drawn(n)
    values[n // 3 : n // 3 + 3], values[-1] = (-32768, 999, 32767), 5
    bits = sum(TABLES[k].bits(values[rows == k]) for k in range(len(TABLES)))
    for cuts in ([4, 0], [4, 2, 0], [4, 1, 1, 0], [4, 3, 2, 1, 0]):
        ranges = [range(first, stop) for stop, first in itertools.pairwise(cuts)]
        streams = encode_falling(values, rows, SPARSE, ranges)
        assert np.array_equal(decode_falling(streams, rows, SPARSE, ranges), values)
        assert (streams == encode_falling(values, rows, TABLES, ranges)) == (n == FEWEST), "a group has a quarter of them"
        assert sum(map(len, streams)) * 8 < bits + 32 * len(streams) + 80


def test_a_beginning_of_runs_is_true_and_grows() -> None:
    values, rows = drawn(6000)
    [stream] = encode_falling(values, rows, SPARSE, ALL)
    known = [decode_falling([Cut(stream[:n_bytes])], rows, SPARSE, ALL) for n_bytes in range(0, len(stream) + 8, 37)]
    for found in known:
        assert ((found == values) | (found == 0)).all()
    counts = [np.count_nonzero(found) for found in known]
    assert counts == sorted(counts) and counts[-1] > 0.95 * np.count_nonzero(values)
    assert np.array_equal(decode_falling([Cut(stream + bytes(8))], rows, SPARSE, ALL), values)


def test_a_thread_sorts_values_of_a_middling_number_while_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    values, rows = drawn(4000)
    [stream] = encode_falling(values, rows, TABLES, ALL)
    calls = []
    monkeypatch.setattr(falling, "beside", lambda call: calls.append(call) or call)
    for numbers, n_calls in ((range(4001, 9000), 0), (range(4000), 0), (range(4000, 4001), 1)):
        monkeypatch.setattr(falling, "_BESIDE", numbers)
        assert np.array_equal(decode_falling([stream], rows, TABLES, ALL), values)
        assert len(calls) == n_calls


def test_streams_that_are_too_short_are_refused_whether_or_not_by_runs() -> None:
    """Groups by runs take next to nothing where all are 0; others, and values that are not 0, take their bits."""
    sparse = SPARSE[1:2]
    least = sparse[0].table.least_bits
    few, many = np.zeros(FEWEST - 1, np.uint8), np.zeros(40 * FEWEST, np.uint8)
    with pytest.raises(CorruptError, match="or more: the file is damaged"):
        decode_falling([b""], few, sparse, [range(1)])
    [stream] = encode_falling(np.zeros(len(many), np.int16), many, sparse, [range(1)])
    assert 8 * len(stream) + 64 < least * len(many)
    assert not decode_falling([stream], many, sparse, [range(1)]).any()
    [stream] = encode_falling(np.arange(len(many)).astype(np.int16) % 2, many, sparse, [range(1)])
    with pytest.raises(CorruptError, match="or more: the file is damaged"):
        decode_falling([stream[:64]], many, sparse, [range(1)])


def test_a_beginning_is_not_copied_for_each_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one value that is not 0, far away, there are many symbols, each asked for by itself."""
    values, rows = np.zeros(400_000, np.int16), np.zeros(400_000, np.uint8)
    values[-1] = 1
    [stream] = encode_falling(values, rows, SPARSE, ALL)
    copies = []
    begin = falling.decoder_of

    class Counting:
        def __init__(self, decoder: object) -> None:
            self._decoder = decoder

        def clone(self) -> "Counting":
            copies.append(1)
            return Counting(self._decoder.clone())  # type: ignore[attr-defined]

        def decode(self, *arguments: object) -> object:
            return self._decoder.decode(*arguments)  # type: ignore[attr-defined]

    monkeypatch.setattr(falling, "decoder_of", lambda data: Counting(begin(data)))
    assert np.array_equal(decode_falling([Cut(stream + bytes(64))], rows, SPARSE, ALL), values)
    assert len(copies) < 20


def test_a_beginning_that_no_stream_has_is_refused() -> None:
    """Its first symbols say that more values are not 0 than there are."""
    rows, likely = np.zeros(600, np.uint8), SPARSE[0]._likely(600)  # type: ignore[attr-defined]
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(np.array([len(likely)], np.int32), constriction.stream.model.Uniform(len(likely) + 1))
    encoder.encode(np.array([0, 601], np.int32), constriction.stream.model.Uniform(65536))
    for stream in (stream_of(encoder) + bytes(8), Cut(stream_of(encoder) + bytes(8))):
        with pytest.raises(CorruptError, match="601 values in a group of 600"):
            decode_falling([stream], rows, SPARSE, ALL)

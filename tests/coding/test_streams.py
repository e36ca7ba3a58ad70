# SPDX-License-Identifier: MIT
"""Streams: decode undoes encode, at the size that theory promises, and word for word as docs/format.md says."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.coding.streams import SignedTable, counted, decode_planes, decode_signed, encode_planes, encode_signed
from fewbits.coding.tables import TOTAL, FrequencyTable, quantize_frequencies
from fewbits.errors import CorruptError


def slow_symbols(words: Sequence[int], tables: Sequence[Sequence[int]]) -> Iterator[int]:
    """docs/format.md, "Streams", in whole numbers: the symbol that `words` hold for each of `tables` (frequencies).

    The state is lower (64 bits), range (64 bits, at least 2**32) and point (64 bits of the stream); the first word of a
    stream is the most significant, words after its end are 0. A symbol s with frequency f[s] owns the quantiles
    F[s] .. F[s] + f[s] - 1, F[s] the sum of the frequencies before it, out of 2**24.
    """
    following = iter(words)
    lower, width = 0, 2**64 - 1
    point = next(following, 0) << 32 | next(following, 0)
    for frequencies in tables:
        scale = width >> 24
        quantile = (point - lower) % 2**64 // scale
        if quantile >= 2**24:
            raise CorruptError("impossible")
        symbol, before = 0, 0
        while quantile >= before + frequencies[symbol]:
            before += frequencies[symbol]
            symbol += 1
        lower, width = (lower + scale * before) % 2**64, scale * frequencies[symbol]
        if width < 2**32:
            lower, width = (lower << 32) % 2**64, width << 32
            point = (point << 32) % 2**64 | next(following, 0)
        yield symbol


def words(data: bytes) -> list[int]:
    return np.frombuffer(data, "<u4").tolist()


def slow_signed(data: bytes, rows: np.ndarray, tables: Sequence[SignedTable]) -> np.ndarray:
    """decode_signed in the order of docs/format.md, "Symbols", 3: by table, then by position, and the escaped values last."""
    places = sorted(range(len(rows)), key=lambda k: (rows[k], k))
    escape = [256] * 65536
    used = [tables[rows[k]].table.frequencies.tolist() for k in places]
    first = np.array(list(slow_symbols(words(data), used)), np.int64) - [tables[rows[k]].limit for k in places]
    escaped = [n for n, k in enumerate(places) if first[n] > tables[rows[k]].limit]
    # the decoder has no way to seek: read the common part again
    last = list(slow_symbols(words(data), used + [escape] * len(escaped)))[len(places) :]
    values = np.zeros(len(rows), np.int64)
    values[places] = first
    for n, symbol in zip(escaped, last, strict=True):
        values[places[n]] = symbol - 32768
    return values


def bell(limit: int, scale: float) -> SignedTable:
    """A table of -limit..limit, falling with the magnitude, and a rare escape. The same on every machine."""
    weights = np.floor(2**30 / (1 + (np.arange(-limit, limit + 1) / scale) ** 4))
    return SignedTable(FrequencyTable(quantize_frequencies(np.append(weights, 1024))))


TABLES = [bell(1, 0.1), bell(3, 0.7), bell(20, 4.0), bell(300, 60.0)]
FAIR = FrequencyTable(np.array([TOTAL // 2, TOTAL // 4, TOTAL // 4]))

int16 = st.one_of(st.integers(-2, 2), st.integers(-400, 400), st.integers(-32768, 32767), st.sampled_from([-32768, 32767]))
coded = st.lists(st.tuples(int16, st.integers(0, len(TABLES) - 1)), max_size=300)


def split(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([value for value, _ in pairs], np.int16), np.array([row for _, row in pairs], np.uint8)


@given(coded)
def test_decode_undoes_encode(pairs: list[tuple[int, int]]) -> None:
    values, rows = split(pairs)
    data = encode_signed(values, rows, TABLES)
    decoded = decode_signed(data, rows, TABLES)
    assert decoded.dtype == np.int16 and np.array_equal(decoded, values)


@given(coded)
def test_the_specification_decodes_what_we_encode(pairs: list[tuple[int, int]]) -> None:
    values, rows = split([(value, row) for value, row in pairs if abs(value) < 1000][:60])
    values = np.append(values, np.int16(-32768))  # the slow escape table is walked to its very beginning
    rows = np.append(rows, np.uint8(1))
    assert np.array_equal(slow_signed(encode_signed(values, rows, TABLES), rows, TABLES), values)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=60), st.integers(0, 2**32))
def test_every_symbol_of_a_table_owns_exactly_its_frequency(weights: list[int], seed: int) -> None:
    """One symbol short of certain, the interval's first and last quantile decode to the symbol, their neighbours do not."""
    table = FrequencyTable(quantize_frequencies(np.array(weights)))
    ends = np.cumsum(table.frequencies)
    scale = (2**64 - 1) >> 24
    for symbol in {0, len(table) - 1, seed % len(table)}:
        for quantile in (ends[symbol] - table.frequencies[symbol], ends[symbol] - 1):
            point = int(quantile) * scale
            data = np.array([point >> 32, point & 0xFFFFFFFF], "<u4").tobytes()
            assert decode_planes(data, [1], [table])[0][0] == symbol


def ideal_bytes(values: np.ndarray, rows: np.ndarray, tables: Sequence[SignedTable]) -> float:
    return sum(table.bits(values[rows == k].astype(np.int64)) for k, table in enumerate(tables)) / 8


RNG = np.random.default_rng(7)
CASES = {
    "empty": ([], []),
    "one": ([0], [2]),
    "constant zero": ([0] * 20_000, [0] * 20_000),
    "constant at the limit": ([20] * 5000, [2] * 5000),
    "escapes only": ([-32768, 32767, 4, -4] * 500, [1] * 2000),
    "extremes in every table": ([-32768, 32767, 301, -301] * 4, [0, 1, 2, 3] * 4),
    "likely": (np.rint(RNG.laplace(0, 4.0, 20_000)), np.full(20_000, 2)),
    "unlikely": (RNG.integers(-300, 301, 5000), np.full(5000, 3)),
    "anything": (RNG.integers(-32768, 32768, 5000), RNG.integers(0, 4, 5000)),
}


@pytest.mark.parametrize("name", CASES)
def test_size_is_the_ideal_and_at_most_one_percent_and_twelve_bytes(name: str) -> None:
    values, rows = np.array(CASES[name][0], np.int16), np.array(CASES[name][1], np.uint8)
    data = encode_signed(values, rows, TABLES)
    assert np.array_equal(decode_signed(data, rows, TABLES), values)
    ideal = ideal_bytes(values, rows, TABLES)
    assert ideal - 1 <= len(data) <= 1.01 * ideal + 12


def test_nothing_costs_nothing() -> None:
    none = np.array([], np.int16)
    assert encode_signed(none, none.astype(np.uint8), TABLES) == b""
    assert encode_planes(np.zeros((2, 0), np.int32), [FAIR, FAIR]) == b""
    assert [len(plane) for plane in decode_planes(b"", [0, 0], [FAIR, FAIR])] == [0, 0]


def test_exact_words_of_planes() -> None:
    symbols = np.array([[0, 1, 2, 0, 0, 2, 1, 1], [2, 2, 2, 2, 0, 1, 0, 1]])
    data = encode_planes(symbols, [FAIR, FAIR])
    assert data.hex() == "40fad759"
    assert list(slow_symbols(words(data), [FAIR.frequencies.tolist()] * 16)) == symbols.ravel().tolist()


def test_exact_words_of_signed_symbols() -> None:
    values = np.array([0, -3, 7, 20, -32768, 1, 0, 32767, -1, 299], np.int16)
    rows = np.array([0, 1, 2, 2, 1, 0, 0, 3, 1, 3], np.uint8)
    data = encode_signed(values, rows, TABLES)
    assert data.hex() == "fec5f2ff21325d3650881be52e2ff8fd00426abd"
    assert np.array_equal(slow_signed(data, rows, TABLES), values)


@pytest.mark.parametrize("first", [0x80000000, 0x7FFFFFFF, 0x00000001, 0xFFFFFFFE])
def test_carries_run_through_many_words(first: int) -> None:
    """The symbols around a point such as 0.1000...: the encoder cannot know for many words whether a carry comes."""
    table = FrequencyTable(quantize_frequencies(np.array([3.0, 1.0, 4.0, 1.0, 5.0])))
    frequencies = table.frequencies.tolist()
    symbols = list(slow_symbols([first], [frequencies] * 200))
    for last in range(len(table)):
        sequence = np.array([[*symbols, last, 2, last]])
        data = encode_planes(sequence, [table])
        assert np.array_equal(decode_planes(data, [sequence.shape[1]], [table]), sequence)
        assert list(slow_symbols(words(data), [frequencies] * sequence.shape[1])) == sequence[0].tolist()


@given(st.binary(max_size=60), st.lists(st.integers(0, len(TABLES) - 1), max_size=200))
def test_any_bytes_give_symbols_or_corrupt_error(data: bytes, rows: list[int]) -> None:
    places = np.array(rows, np.uint8)
    try:
        values = decode_signed(data, places, TABLES)
    except CorruptError:
        return
    assert values.dtype == np.int16 and values.shape == places.shape
    assert len(data) % 4 == 0


@given(st.lists(st.integers(0, 2**32 - 1), max_size=8))
def test_any_words_decode_as_the_specification_says(stream: list[int]) -> None:
    frequencies = FAIR.frequencies.tolist()
    data = np.array(stream, "<u4").tobytes()
    count = min(150, int((8 * len(data) + 64) / FAIR.least_bits))  # more are refused
    try:
        expected = list(slow_symbols(stream, [frequencies] * count))
    except CorruptError:
        with pytest.raises(CorruptError):
            decode_planes(data, [count], [FAIR])
        return
    assert decode_planes(data, [count], [FAIR])[0].tolist() == expected


@pytest.mark.parametrize("likeliest", [0, 3, 7])
@pytest.mark.parametrize("share", [0.2, 0.9, 0.9999])
def test_streams_of_the_likeliest_symbols_alone_are_long_enough(likeliest: int, share: float) -> None:
    weights = np.full(8, (1 - share) / 7)
    weights[likeliest] = share
    table = FrequencyTable(quantize_frequencies(weights))
    for count in (1, 40, 41, 1000, 65_537):
        symbols = np.full((1, count), likeliest)
        data = encode_planes(symbols, [table])
        assert np.array_equal(decode_planes(data, [count], [table]), symbols)
        assert 8 * len(data) - 64 <= count * table.least_bits  # so the bound is a sharp one
        signed = SignedTable(table)
        values, rows = (symbols[0] - signed.limit).astype(np.int16), np.zeros(count, np.uint8)
        values[values > signed.limit] = 900  # the escape
        assert np.array_equal(decode_signed(encode_signed(values, rows, [signed]), rows, [signed]), values)


def test_a_stream_too_short_for_its_symbols_is_refused_before_they_are_decoded() -> None:
    many = 1 << 40  # bytes of which nobody has
    with pytest.raises(CorruptError, match="a stream has 400 bytes, its symbols take"):
        decode_planes(bytes(400), [many], [FAIR])
    rows = np.full(100_000, 2, np.uint8)
    with pytest.raises(CorruptError, match="a stream has 4 bytes, its symbols take"):
        decode_signed(bytes(4), rows, TABLES)


def test_impossible_streams_are_refused() -> None:
    with pytest.raises(CorruptError, match="no valid symbols"):
        decode_planes(b"\xff" * 8, [1], [FAIR])  # a quantile of 2**24
    for length in (1, 2, 3, 5, 7):
        with pytest.raises(CorruptError, match=f"{length} bytes, it must be a multiple of 4"):
            decode_planes(bytes(length), [1], [FAIR])


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 100)), min_size=1, max_size=5), st.integers(0, 2**32))
def test_planes_of_any_sizes_come_back(shapes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = [FrequencyTable(quantize_frequencies(rng.random(size + 1))) for size, _ in shapes]
    symbols = [rng.integers(0, len(table), n) for table, (_, n) in zip(tables, shapes, strict=True)]
    found = decode_planes(encode_planes(symbols, tables), [n for _, n in shapes], tables)
    assert all(np.array_equal(*pair) for pair in zip(found, symbols, strict=True))


def test_an_escape_costs_sixteen_bits_more() -> None:
    table = TABLES[1]
    escape = math.log2(TOTAL / table.table.frequencies[-1])
    for value in (4, -4, 32767, -32768):
        assert table.bits(np.array([value], np.int16)) == pytest.approx(escape + 16)
    assert table.bits(np.array([3, -3])) == pytest.approx(2 * math.log2(TOTAL / table.table.frequencies[0]), rel=1e-4)


def test_a_signed_table_is_symmetric() -> None:
    assert TABLES[1].limit == 3
    with pytest.raises(ValueError, match="even number"):
        SignedTable(FAIR)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("n_tables", [1, 4, 64])
@pytest.mark.parametrize("n", [0, 1, 256, 1023, 1024, 1025, 16_385, 30_000])
def test_counting(n: int, n_tables: int, dtype: type[np.unsignedinteger]) -> None:
    """Fewer than there are pairs and more, an even number and an odd one, the last table and only some of them."""
    for most in {n_tables, (n_tables + 1) // 2}:
        rows = np.random.default_rng(n).integers(0, most, n).astype(dtype)
        expected = [int((rows == k).sum()) for k in range(n_tables)]
        assert counted(rows, n_tables).tolist() == expected
        assert counted(rows.reshape(1, -1), n_tables).tolist() == expected

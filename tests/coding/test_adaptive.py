# SPDX-License-Identifier: MIT
"""The adaptive coder: decode undoes encode, at its model's own length, and bit for bit as docs/format.md says."""

import builtins
import importlib
import sys
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewbits.coding import adaptive, adaptive_loop
from fewbits.coding.adaptive import CODED, LARGEST, RAW, decisions, decode_maps, encode_maps, ideal_bits
from fewbits.errors import CorruptError


class SlowDecoder:
    """docs/format.md, "Adaptive streams", with names in place of numbers, and no thought of speed."""

    def __init__(self, data: bytes, shape: tuple[int, int, int]) -> None:
        assert data[0] == CODED
        self.rest, self.shape = list(data[1:]), shape
        self.range, self.code = 2**32 - 1, 0
        for _ in range(4):
            self.code = self.code * 256 + self.byte()
        self.states: dict[object, list[int]] = defaultdict(lambda: [32768, 32768, 0])

    def byte(self) -> int:
        return self.rest.pop(0) if self.rest else 0

    def bit(self, *contexts: object) -> int:
        used = [self.states[context] for context in contexts]
        if len(used) == 2 and used[0][2] == 0:
            used[0][:] = [*used[1][:2], 2]
        estimates = [value for state in used for value in state[:2]] or [32768]
        one = min(max(sum(estimates) // len(estimates), 16), 65536 - 16)
        bound = self.range // 65536 * one
        found = int(self.code < bound)
        if found:
            self.range = bound
        else:
            self.code, self.range = self.code - bound, self.range - bound
        while self.range < 2**24:
            self.range, self.code = self.range * 256, self.code * 256 + self.byte()
        for state in used:
            state[2] = min(state[2] + 1, 6)
            for place, most in ((0, 3), (1, 6)):
                state[place] += (65535 * found - state[place]) >> min(state[2], most)
        return found

    def values(self) -> np.ndarray:
        maps = np.zeros(self.shape, int)

        def magnitude(which: int, row: int, column: int) -> int:
            inside = which >= 0 and row >= 0 and 0 <= column < self.shape[2]
            return abs(int(maps[which, row, column])) if inside else 0

        for which, row, column in np.ndindex(*self.shape):
            near = [(0, -1, 2), (-1, 0, 2), (0, -2, 1), (-2, 0, 1), (-1, -1, 1), (-1, 1, 1)]
            total = sum(weight * magnitude(which, row + down, column + right) for down, right, weight in near)
            around = total if total < 5 else 5 + sum(total >= bound for bound in (8, 14, 26, 60))
            before = min(magnitude(which - 1, row, column), 2)
            size = 0
            while size < 14 and self.bit(("own", which, around, size), ("common", before, around, size)):
                size += 1
            if size == 14:
                length = 0
                while length < 31 and self.bit(("length", length)):
                    length += 1
                number = 1
                for place in reversed(range(length)):
                    number = 2 * number + self.bit(("rest", place))
                size = 14 + number - 1
            maps[which, row, column] = -size if size and self.bit() else size
        return maps


ADVERSARIAL = {
    "empty": np.zeros((0, 3, 4), int),
    "nothing": np.zeros((3, 0, 4), int),
    "one": np.full((1, 1, 1), -1),
    "zeros": np.zeros((3, 20, 30), int),
    "constant": np.full((2, 15, 15), -300),
    "largest": np.array([[[LARGEST, -LARGEST, 0, LARGEST]]]),
    "steps": np.where(np.arange(400).reshape(1, 20, 20) % 7, 0, 1 << (np.arange(400).reshape(1, 20, 20) % 31)),
    "noise": np.random.default_rng(0).integers(-LARGEST, LARGEST, (2, 12, 12)),
    "bytes": np.random.default_rng(1).integers(-128, 128, (2, 30, 30)),
    "laplace": np.random.default_rng(2).laplace(0, 2, (6, 24, 24)).astype(int),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_decoding_undoes_encoding_and_is_never_much_longer_than_the_values(name: str) -> None:
    maps = ADVERSARIAL[name]
    data = encode_maps(maps)
    found = decode_maps(data, maps.shape)
    assert found.dtype == np.int32 and np.array_equal(found, maps)
    largest = int(np.abs(maps).max(initial=0))
    raw = maps.size * (1 if largest < 128 else 2 if largest < 32768 else 4)
    assert len(data) <= raw + 16


@given(
    arrays(np.int64, st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 6)), elements=st.integers(-LARGEST, LARGEST))
)
def test_any_maps_come_back(maps: np.ndarray) -> None:
    assert np.array_equal(decode_maps(encode_maps(maps), maps.shape), maps)


@given(arrays(np.int8, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-3, 3)))
def test_small_ones_too(maps: np.ndarray) -> None:
    assert np.array_equal(decode_maps(encode_maps(maps), maps.shape), maps)


@pytest.mark.parametrize("name", ["zeros", "constant", "laplace", "steps"])
def test_the_stream_is_what_the_document_says(name: str) -> None:
    maps = ADVERSARIAL[name]
    data = encode_maps(maps)
    assert data[0] == CODED
    slow = SlowDecoder(data, maps.shape)
    assert np.array_equal(slow.values(), maps) and not slow.rest


@pytest.mark.parametrize("name", ["zeros", "constant", "laplace", "steps", "noise"])
def test_without_numba_it_gives_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, bits = encode_maps(ADVERSARIAL[name]), ideal_bits(ADVERSARIAL[name])
    importing = builtins.__import__

    def refused(module: str, *rest: object, **named: object) -> object:
        if module == "numba":
            raise ImportError("not here")
        return importing(module, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refused)
    monkeypatch.delitem(sys.modules, adaptive_loop.__name__)
    plain = importlib.import_module(adaptive_loop.__name__)
    assert not plain.COMPILED
    monkeypatch.setattr(adaptive, "_loop", lambda: plain)
    assert not adaptive.is_compiled()
    assert encode_maps(ADVERSARIAL[name]) == wanted
    assert np.array_equal(decode_maps(wanted, ADVERSARIAL[name].shape), ADVERSARIAL[name])
    assert ideal_bits(ADVERSARIAL[name]) == pytest.approx(bits)


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
def test_size_is_the_models_own_length_and_under_the_order_0_entropy_where_there_is_structure(scale: float) -> None:
    rng = np.random.default_rng(0)
    envelope = np.exp(np.add.outer(np.sin(np.arange(64) / 9), np.sin(np.arange(64) / 7)))
    maps = rng.laplace(0, scale, (8, 64, 64)) * envelope
    maps = maps.round().astype(int)
    length = len(encode_maps(maps))
    assert length <= 1.01 * ideal_bits(maps) / 8 + 8
    assert length > 0.999 * ideal_bits(maps) / 8  # what division leaves of the range goes to zeros, so a little less is right
    entropy = 0.0
    for plane in maps:
        counts = np.unique(plane, return_counts=True)[1]
        entropy -= (counts * np.log2(counts / plane.size)).sum()
    assert length < entropy / 8


def test_empty_maps_cost_next_to_nothing() -> None:
    """Less than a byte for each map of zeros, beside some that hold something."""
    full = np.random.default_rng(0).laplace(0, 3, (10, 20, 20)).astype(int)
    empty = np.zeros((100, 20, 20), int)
    assert len(encode_maps(np.concatenate([full, empty]))) - len(encode_maps(full)) < 100


def test_decisions_are_counted() -> None:
    """By hand: 0 takes one; 1 two and a sign; 13 fourteen and a sign; 14 fourteen, an empty rest, and a sign."""
    for value, count in ((0, 1), (1, 3), (13, 15), (14, 16), (-15, 18), (16, 18), (17, 20)):
        assert decisions(np.array([[[value]]])) == count


def test_damage_gives_other_values_or_an_error() -> None:
    maps, rng = ADVERSARIAL["laplace"], np.random.default_rng(0)
    data = encode_maps(maps)
    for length in range(0, len(data), 37):
        with pytest.raises(CorruptError):
            decode_maps(data[:length], maps.shape)
    with pytest.raises(CorruptError, match="was read to byte"):
        decode_maps(data + b"\0", maps.shape)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            found = decode_maps(bytes(damaged), maps.shape)
        except CorruptError:
            continue
        assert found.shape == maps.shape and np.abs(found.astype(np.int64)).max() <= LARGEST


@pytest.mark.parametrize(
    ("data", "shape", "said"),
    [
        (b"\x01", (1, 1, 0), "of no values has 1 bytes"),
        (b"\x02\x00", (1, 1, 1), "no known kind"),
        (b"\x00", (1, 1, 1), "no known kind"),
        (bytes([RAW, 3, 0, 0, 0]), (1, 1, 1), "raw stream of 1 values has 5 bytes"),
        (bytes([RAW, 1, 0, 0]), (1, 1, 1), "raw stream"),
    ],
)
def test_wrong_streams_are_refused(data: bytes, shape: tuple[int, int, int], said: str) -> None:
    with pytest.raises(CorruptError, match=said):
        decode_maps(data, shape)


@pytest.mark.parametrize(
    ("maps", "said"),
    [(np.zeros((2, 2)), "float64 of shape"), (np.zeros((2, 2), int), r"of shape \(2, 2\)"),
     (np.array([[[LARGEST + 1]]]), "magnitudes must be at most 2147483647")],
)  # fmt: skip
def test_other_maps_are_refused(maps: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encode_maps(maps)


def test_a_magnitude_that_int32_wraps_is_refused() -> None:
    """2^32 + 5 became 5: another file for the same values, which another decoder would have refused."""
    values = np.array([[[3, 0, (1 << 32) + 5]]], np.int64)
    out, length, _ = adaptive._run(adaptive_loop.ENCODE, values, np.zeros(100, np.uint8))
    with pytest.raises(CorruptError, match=f"a magnitude above {LARGEST}"):
        decode_maps(bytes([CODED]) + out[:length].tobytes(), (1, 1, 3))
    with pytest.raises(CorruptError, match=f"a magnitude above {LARGEST}"):
        decode_maps(bytes([RAW, 4]) + (-1 << 31).to_bytes(4, "little", signed=True), (1, 1, 1))


@pytest.mark.parametrize("kind", [b"", b"\0", b"\0\1", b"\1", b"\1\0"])
def test_a_stream_too_short_for_its_values_is_refused_before_they_are_allocated(kind: bytes) -> None:
    with pytest.raises(CorruptError, match="begins with no known kind|or more: the file is damaged|a raw stream"):
        decode_maps(kind + bytes(40), (1 << 20, 1 << 20, 1 << 20))  # an exbibyte


def test_values_that_cost_least_are_long_enough() -> None:
    """The bound holds for what the encoder makes of nothing but zeros, and it is near."""
    maps = np.zeros((1, 2000, 500), np.int32)
    data = encode_maps(maps)
    assert np.array_equal(decode_maps(data, maps.shape), maps)
    with pytest.raises(CorruptError, match="or more: the file is damaged"):
        adaptive.check_length(data, 2 * maps.size)


def test_decoding_ends_where_the_stream_does() -> None:
    """Zeros past its end would go on: 10 million values of 500 random bytes took seconds."""
    noise = np.random.default_rng(0).bytes(500)
    values = np.zeros((1, 10_000, 1000), np.int64)
    states = np.tile(np.array(adaptive_loop.FIRST_STATE, np.int64), adaptive_loop.n_contexts(1))
    coder = np.zeros(5, np.int64)
    used, _ = adaptive_loop.code(
        adaptive_loop.DECODE, *values.shape, values.reshape(-1), np.array(bytearray(noise)), states, coder, np.zeros(1)
    )
    assert used > len(noise) and not values[0, 20:].any()

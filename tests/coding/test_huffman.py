# SPDX-License-Identifier: MIT
"""Huffman streams as laws: inverse of each other, near the entropy, the documented trees, and one error for what is damaged."""

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.coding.huffman import LONGEST, code_lengths, decode_huffman, encode_huffman, ideal_bits
from fewbits.errors import CorruptError

RNG = np.random.default_rng(0)
GROUPS = {
    "empty": np.zeros(0, np.int64),
    "one value": np.full(1000, 7),
    "one symbol": np.array([63]),
    "two": np.array([0, 63] * 20),
    "random": RNG.integers(0, 64, 3000),
    "skewed": np.minimum(RNG.geometric(0.4, 3000), 63),
    "fibonacci": np.repeat(
        np.arange(20), [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765]
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_what_was_encoded_comes_back(name: str) -> None:
    values = GROUPS[name]
    stream = encode_huffman([values], [64])
    (found,) = decode_huffman(stream, [len(values)], [64])
    assert np.array_equal(found, values)
    assert len(stream) <= 2 + 32 + (ideal_bits([values]) + len(values)) / 8 + 1
    assert len(stream) >= ideal_bits([values]) / 8


@given(st.lists(st.lists(st.integers(0, 15), max_size=40), max_size=4))
def test_groups_share_a_stream(lists: list[list[int]]) -> None:
    groups = [np.array(part, np.int64) for part in lists]
    alphabets = [16] * len(groups)
    stream = encode_huffman(groups, alphabets)
    found = decode_huffman(stream, [len(part) for part in groups], alphabets)
    assert all(np.array_equal(*pair) for pair in zip(found, groups, strict=True))
    assert stream or not any(lists)


def best_lengths(counts: np.ndarray) -> int:
    """Total bits of an optimal code, by the textbook: join the two lightest, until one is left."""
    heap, total = [int(count) for count in counts if count], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


@pytest.mark.parametrize("name", ["two", "random", "skewed"])
def test_codes_are_optimal(name: str) -> None:
    counts = np.bincount(GROUPS[name], minlength=64)
    lengths = code_lengths(counts)
    assert (counts * lengths).sum() == best_lengths(counts)
    assert not lengths[counts == 0].any()


def test_no_code_is_longer_than_its_field() -> None:
    lengths = code_lengths(np.bincount(GROUPS["fibonacci"]))
    assert lengths.max() <= LONGEST < 19  # the optimal code has 19
    assert (np.bincount(GROUPS["fibonacci"]) * lengths).sum() <= 1.01 * best_lengths(np.bincount(GROUPS["fibonacci"]))
    assert np.ldexp(1.0, -lengths[lengths > 0].astype(int)).sum() == 1


def plain_decode(stream: bytes, n_symbols: int) -> list[int]:
    """docs/format.md in plain Python, for one group: the tree, and bits from the lowest of each byte."""
    first, last = stream[0], stream[1]
    packed = stream[2 : 2 + (last - first + 2) // 2]
    lengths = {first + k: packed[k // 2] >> 4 * (k % 2) & 15 for k in range(last - first + 1)}
    used = [number for number in sorted(lengths) if lengths[number]]
    nodes = [(2.0 ** -lengths[number], k, number) for k, number in enumerate(used)]
    heapq.heapify(nodes)
    for number in range(len(nodes), 2 * len(nodes) - 1):
        low, high = heapq.heappop(nodes), heapq.heappop(nodes)
        heapq.heappush(nodes, (low[0] + high[0], number, (low[2], high[2])))
    body, place, found = stream[2 + len(packed) :], 0, []
    for _ in range(n_symbols):
        node = nodes[0][2]
        while not isinstance(node, int):
            node = node[body[place // 8] >> place % 8 & 1]
            place += 1
        found.append(node)
    return found


@pytest.mark.parametrize("name", ["two", "random", "skewed", "fibonacci"])
def test_streams_are_what_the_format_says(name: str) -> None:
    values = GROUPS[name]
    assert plain_decode(encode_huffman([values], [64]), len(values)) == values.tolist()


def test_bytes_of_a_stream_are_pinned() -> None:
    assert encode_huffman([np.array([5, 5, 5, 5, 6, 6, 8, 9])], [64]).hex() == "0509213003503b"


def test_damaged_streams_give_one_error_or_symbols_of_the_alphabet() -> None:
    values = GROUPS["skewed"][:300]
    stream = encode_huffman([values], [64])
    for end in range(len(stream)):
        with pytest.raises(CorruptError):
            decode_huffman(stream[:end], [300], [64])
    with pytest.raises(CorruptError):
        decode_huffman(stream + b"\0", [300], [64])
    refused = 0
    for place in range(len(stream)):
        for bit in range(8):
            mutated = bytearray(stream)
            mutated[place] ^= 1 << bit
            try:
                (found,) = decode_huffman(bytes(mutated), [300], [64])
            except CorruptError:
                refused += 1
            else:
                assert found.min() >= 0 and found.max() < 64
    assert refused >= 8 * 6  # most of those in the table

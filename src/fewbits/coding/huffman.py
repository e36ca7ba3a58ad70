# SPDX-License-Identifier: MIT
"""Huffman-coded groups of symbols, with the tables of code lengths in the stream (docs/format.md, "Huffman streams").

constriction builds the trees and writes the bits. A tree is always built from the code lengths, as probabilities 2^-length,
which are exact in floating point: so whoever reads the lengths builds the same tree as the writer.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from constriction import symbol

from fewbits.errors import CorruptError

LONGEST: Final = 15  # bits of a code, so that a length fits 4 bits
_WORD: Final = np.dtype("<u4")


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's code, uint8, for counts (n,): 0 where a symbol never occurs, 1 where it is the only one.

    Where a code would be longer than LONGEST, the rarest symbols are counted as if they were less rare.
    """
    used, lengths = np.flatnonzero(counts), np.zeros(len(counts), np.uint8)
    if len(used) == 1:
        lengths[used] = 1
    if len(used) < 2:
        return lengths
    weights = counts[used].astype(np.float32)
    while True:
        tree = symbol.huffman.EncoderHuffmanTree(weights)
        lengths[used] = [_bits(number, tree) for number in range(len(used))]
        if lengths.max() <= LONGEST:
            return lengths
        weights = np.maximum(weights, 2 * weights.min())


def encode_huffman(groups: Sequence[np.ndarray], alphabets: Sequence[int]) -> bytes:
    """Groups of integers, each from 0 to its alphabet - 1, to one stream: the tables of all groups, then their bits."""
    tables, encoder = bytearray(), symbol.QueueEncoder()
    for values, alphabet in zip(groups, alphabets, strict=True):
        if not values.size:
            continue
        lengths = code_lengths(np.bincount(values.ravel(), minlength=alphabet))
        tables += _packed(lengths)
        used = np.flatnonzero(lengths)
        if len(used) > 1:
            tree = symbol.huffman.EncoderHuffmanTree(_probabilities(lengths[used]))
            for value in np.searchsorted(used, values.ravel()).tolist():
                encoder.encode_symbol(value, tree)
    words, n_bits = encoder.get_compressed_and_bitrate()
    packed = np.asarray(words, _WORD).tobytes()
    return bytes(tables) + packed[: -(-int(n_bits) // 8)]


def decode_huffman(stream: bytes, sizes: Sequence[int], alphabets: Sequence[int]) -> list[np.ndarray]:
    """Inverse of encode_huffman for groups of known sizes: int32 arrays (size,). Raises CorruptError."""
    place, tables = 0, []
    for size, alphabet in zip(sizes, alphabets, strict=True):
        lengths, place = _unpacked(stream, place, alphabet) if size else (np.zeros(0, np.uint8), place)
        tables.append(lengths)
    body = stream[place:]
    decoder, n_bits = symbol.QueueDecoder(np.frombuffer(body + bytes(-len(body) % 4), _WORD).astype(np.uint32)), 0
    groups = []
    for size, lengths in zip(sizes, tables, strict=True):
        used = np.flatnonzero(lengths)
        if len(used) < 2:  # a lone symbol takes no bits
            groups.append(np.full(size, used[0] if size else 0, np.int32))
            continue
        tree = symbol.huffman.DecoderHuffmanTree(_probabilities(lengths[used]))
        try:
            found = np.array([decoder.decode_symbol(tree) for _ in range(size)], np.int64)
        except (AssertionError, ValueError, IndexError) as error:
            raise CorruptError("a Huffman stream ends before its last symbol: the file is damaged") from error
        n_bits += int(lengths[used][found].sum())
        groups.append(used[found].astype(np.int32))
    if -(-n_bits // 8) != len(body):
        raise CorruptError(f"a Huffman stream has {len(body)} bytes behind its tables, its symbols take {n_bits} bits")
    return groups


def ideal_bits(groups: Sequence[np.ndarray]) -> float:
    """The order-0 entropy of the groups in bits, without tables: what no code of single symbols can beat."""
    total = 0.0
    for values in groups:
        counts = np.unique(values, return_counts=True)[1]
        total -= float((counts * np.log2(counts / max(1, values.size))).sum())
    return total


def _bits(number: int, tree: Any) -> int:
    encoder = symbol.QueueEncoder()
    encoder.encode_symbol(number, tree)
    return int(encoder.get_compressed_and_bitrate()[1])


def _probabilities(lengths: np.ndarray) -> np.ndarray:
    return np.ldexp(np.float32(1), -lengths.astype(np.int32)).astype(np.float32)


def _packed(lengths: np.ndarray) -> bytes:
    """First and last symbol that occur, a byte each, then the code lengths between them, two in a byte, the first one low."""
    used = np.flatnonzero(lengths)
    first, last = int(used[0]), int(used[-1])
    between = lengths[first : last + 1]
    pairs = np.append(between, np.zeros(len(between) % 2, np.uint8)).reshape(-1, 2)
    packed: bytes = (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()
    return bytes([first, last]) + packed


def _unpacked(stream: bytes, place: int, alphabet: int) -> tuple[np.ndarray, int]:
    """Code lengths (alphabet,) of the table at `place`, and where it ends. Raises CorruptError where they make no code."""
    head = stream[place : place + 2]
    if len(head) < 2 or not head[0] <= head[1] < alphabet:
        raise CorruptError(f"a Huffman table names the symbols {list(head)} of {alphabet}: the file is damaged")
    first, n_lengths = head[0], head[1] - head[0] + 1
    end = place + 2 + (n_lengths + 1) // 2
    packed = np.frombuffer(stream[place + 2 : end], np.uint8)
    if len(packed) != (n_lengths + 1) // 2:
        raise CorruptError("a Huffman table ends early: the file is damaged")
    halves = np.stack([packed & 15, packed >> 4], 1).ravel()
    lengths = np.zeros(alphabet, np.uint8)
    lengths[first : first + n_lengths] = halves[:n_lengths]
    used = lengths[lengths > 0].astype(np.int64)
    complete = (1 << LONGEST >> used).sum() == 1 << LONGEST
    if not (complete or list(used) == [1]) or halves[n_lengths:].any() or not (lengths[head[0]] and lengths[head[1]]):
        raise CorruptError("a Huffman table's code lengths make no code: the file is damaged")
    return lengths, end

# SPDX-License-Identifier: MIT
"""Networks whose graph and whose weights lie in two ONNX files: a variant of a network has no weights of its own (ADR 18).

Both files are protocol buffers, where fields that repeat may be appended: a network with the weights of another is its bytes, and
after them a message that has nothing but those weights, and the code that stands for a weight of 0.
"""

from collections.abc import Iterator
from typing import Final

from fewbits.errors import ModelError

GRAPH: Final = 7  # the field of ModelProto
INITIALIZER: Final = 5  # the field of GraphProto
_BYTES: Final = 2  # the wire type of texts, bytes and messages
WEIGHT_ZERO: Final = "weight_zero"  # the initializer that a variant lacks, too: its type is that of all 8-bit weights
STEP: Final = "step"  # an input that variants of synthesis have beside its own: of the codes of the latent
WEIGHTS: Final = "weights"  # and another, of some: what the network SYNTHESIS_WEIGHTS makes for a quality (ADR 37)
SYNTHESIS_WEIGHTS: Final = "synthesis_weights"


def with_weights(graph: bytes, source: bytes, *, signed: bool) -> bytes:
    """The ONNX file `graph` with the initializers of the ONNX file `source` beside its own. Raises ModelError.

    signed: of 8-bit weights; unsigned ones are slower, but where a processor adds up pairs of products in 16 bits, signed ones
    overflow. Results are the same.
    """
    try:
        models = [content for field, content in _fields(memoryview(source)) if field == GRAPH]  # of megabytes, not copied
        weights = [content for model in models for field, content in _fields(model) if field == INITIALIZER]
    except IndexError:
        raise ModelError("it is no ONNX file") from None
    weights.append(memoryview(_tensor(3, b"\x00") if signed else _tensor(2, b"\x80")))
    beside: list[bytes | memoryview] = []
    for weight in weights:
        beside += [_head(INITIALIZER, len(weight)), weight]
    return b"".join([graph, _head(GRAPH, sum(map(len, beside))), *beside])


def _tensor(kind: int, data: bytes) -> bytes:
    """WEIGHT_ZERO as a TensorProto of no dimensions, whose fields are its type (2: uint8, 3: int8), name and bytes."""
    name = WEIGHT_ZERO.encode()
    return _coded(2 << 3) + _coded(kind) + _head(8, len(name)) + name + _head(9, len(data)) + data


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The number and content of each field of a message that is text, bytes or a message. IndexError where it is none."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        if key & 7 == _BYTES:
            size, place = _varint(message, place)
            if place + size > len(message):
                raise IndexError
            yield key >> 3, message[place : place + size]
            place += size
        elif key & 7 == 0:
            _, place = _varint(message, place)
        else:
            place += {1: 8, 5: 4}.get(key & 7, len(message) + 1)
            if place > len(message):
                raise IndexError


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _head(number: int, size: int) -> bytes:
    """What comes before the `size` bytes of a field."""
    return _coded(number << 3 | _BYTES) + _coded(size)


def _coded(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

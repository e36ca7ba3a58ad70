# SPDX-License-Identifier: MIT
"""What is fuzzed: for each target a function of bytes that returns where they are a picture, symbols or a FewbitsError, and
raises where they are neither. `run.py` drives them by coverage; tests/test_fuzz.py replays the kept corpus through them.

Checksums are made right before a file is decoded: they find accidents, and whoever writes a hostile file computes them too.
"""

import copy
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np

from fewbits import container
from fewbits.codec import Model, load_model
from fewbits.coding import adaptive, huffman
from fewbits.coding.falling import decode_falling
from fewbits.coding.streams import SignedTable, decode_planes, decode_signed
from fewbits.coding.tables import FrequencyTable, quantize_frequencies
from fewbits.container import Cut, Limits
from fewbits.errors import FewbitsError
from fewbits.image import to_image
from fewbits.runtime.bundle import parse_bundle, parse_manifest
from fewbits.runtime.engines import onnxruntime_engine
from fewbits.runtime.hyperprior import HyperpriorCodec
from fewbits.runtime.places import PLACE_PX, pack_places, parse_places
from fewbits.sidecar import parse_alpha, parse_metadata

LIMITS: Final = Limits(pixels=20_000)  # larger pictures only take longer
MOST_VALUES: Final = 4096  # that a stream is asked for, for the same reason
SIDECAR: Final = (container.SECTION_ALPHA, container.SECTION_ICC, container.SECTION_EXIF, container.SECTION_XMP)
PASSES: Final = "passes"  # the flagship with its symbols in falling order, whichever the shipped one has
CHECKED: Final = (*SIDECAR, container.SECTION_QUALITIES)  # sections that end in a checksum of their own
_LIST: Final = 34  # where a header's section list begins
_KINDS: Final = 4  # bytes at the start of an input of `streams`, `adaptive` and `huffman` that say what it is asked for


@cache
def model(name: str) -> Model:
    if name != PASSES:
        return load_model(name, threads=1)
    found = copy.copy(model("few"))
    found.bundle = replace(found.bundle, coding=dict(found.bundle.coding) | {"order": "falling"})
    found.pipeline = HyperpriorCodec(found.bundle, onnxruntime_engine(1))
    return found


@cache
def tables() -> list[SignedTable]:
    """Narrow to wide, as those of the flagship."""
    parts = [np.exp(-np.abs(np.arange(-limit, limit + 2)) / spread) for limit, spread in ((1, 0.05), (3, 0.7), (20, 5.0))]
    return [SignedTable(FrequencyTable(quantize_frequencies(part))) for part in parts]


def header(data: bytes) -> None:
    """parse_header and parse."""
    container.parse(_with_right_head(data))


def sidecar(data: bytes) -> None:
    """The first byte says which section it is; the second what size and depth are expected; the rest is its content."""
    if len(data) < 2:
        return
    content = data[2:]
    section = (SIDECAR[data[0] % len(SIDECAR)], content + struct.pack("<I", zlib.crc32(content)))
    alpha = parse_alpha([section], 1 + data[1] % 16, 1 + data[1] // 16, 8 if data[1] % 2 else 16)
    assert alpha is None or alpha.dtype in (np.uint8, np.uint16)
    parse_metadata([section])


def qualities(data: bytes) -> None:
    """The first two bytes say how many places the picture has; the rest is a qualities section. What is read must come back."""
    if len(data) < 5:
        return
    rows, columns, content = 1 + data[0] % 16, 1 + data[1] % 16, data[2:]
    steps = struct.unpack_from("<H", content, 1)[0]
    section = container.SECTION_QUALITIES, content + struct.pack("<I", zlib.crc32(content))
    places = parse_places([section], rows * PLACE_PX, columns * PLACE_PX - 1, steps % (container.QUALITY_STEPS + 1))
    assert places is not None and places.classes.shape == (rows, columns)
    again = parse_places([(section[0], pack_places(places))], rows * PLACE_PX, columns * PLACE_PX, places.qualities[0])
    assert again is not None and again.qualities == places.qualities and np.array_equal(again.classes, places.classes)


def streams(data: bytes) -> None:
    """Range-coded streams: by planes, and with a table for each value."""
    if len(data) < _KINDS:
        return
    count, seed, stream = struct.unpack_from("<H", data)[0] % MOST_VALUES, data[2], data[_KINDS:]
    rows = np.random.default_rng(seed).integers(0, len(tables()), count).astype(np.uint8)
    if data[3] % 2:
        planes = decode_planes(stream, [count] * len(tables()), [table.table for table in tables()])
        assert [len(plane) for plane in planes] == [count] * len(tables())
    else:
        assert decode_signed(stream, rows, tables()).shape == (count,)


def falling(data: bytes) -> None:
    """A stream of two passes. What its beginning tells must be what the whole of it says."""
    if len(data) < _KINDS:
        return
    count, seed, stream = struct.unpack_from("<H", data)[0] % MOST_VALUES, data[2], data[_KINDS:]
    rows = np.random.default_rng(seed).integers(0, len(tables()), count).astype(np.uint8)
    ranges, place = [range(2, len(tables())), range(2)], 4 * data[3]
    whole, cut = [stream[:place], stream[place:]], len(stream) // 2
    told = decode_falling([Cut(part[:cut]) for part in whole], rows, tables(), ranges)
    values = decode_falling(whole, rows, tables(), ranges)
    assert ((told == values) | (told == 0)).all()


def adaptive_maps(data: bytes) -> None:
    """An adaptive stream. What is decoded must come back through the encoder."""
    if len(data) < _KINDS:
        return
    shape = (data[0] % 8, data[1] % 32, data[2] % 32)
    maps = adaptive.decode_maps(data[_KINDS:], shape)
    assert maps.shape == shape and np.array_equal(adaptive.decode_maps(adaptive.encode_maps(maps), shape), maps)


def huffman_groups(data: bytes) -> None:
    """A Huffman stream of three groups. What is decoded must come back through the encoder."""
    if len(data) < _KINDS:
        return
    sizes, alphabets = list(data[:3]), [2, 16, 64]
    groups = huffman.decode_huffman(data[_KINDS:], sizes, alphabets)
    again = huffman.decode_huffman(huffman.encode_huffman(groups, alphabets), sizes, alphabets)
    assert all(np.array_equal(*pair) for pair in zip(groups, again, strict=True))


def manifest(data: bytes) -> None:
    """A bundle is trusted, but a damaged one must give one clear line."""
    parse_manifest(data, "fuzz")
    parse_bundle({"manifest.json": data}, "fuzz")


def decoder(name: str) -> Callable[[bytes], None]:
    """The whole decoder with a model; a file that ends early is one that was cut."""

    def decode(data: bytes) -> None:
        data = _with_right_head(data, name)
        if len(data) >= container.parse_header(data).file_bytes:
            data = _with_right_symbols(data, name)
        picture = model(name).decode_picture(data, limits=LIMITS, allow_truncated=True)
        head = container.parse_header(data)
        assert picture.pixels.shape == (head.height, head.width, 3)
        to_image(picture)

    return decode


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "header": header,
    "sidecar": sidecar,
    "qualities": qualities,
    "streams": streams,
    "adaptive": adaptive_maps,
    "huffman": huffman_groups,
    "manifest": manifest,
    "klt": decoder("klt"),
    "few": decoder("few"),
    "falling": falling,
    PASSES: decoder(PASSES),
}


def check(target: str, data: bytes) -> FewbitsError | None:
    """Runs a target; what it refuses, it must refuse in one line. Whatever else it raises passes through."""
    try:
        TARGETS[target](data)
    except FewbitsError as error:
        assert str(error) and "\n" not in str(error), f"not one line: {error!r}"
        return error
    return None


def _with_right_head(data: bytes, name: str | None = None) -> bytes:
    """Magic, version, all checksums but that of the symbols as they must be; where a model is named, its family and id."""
    if len(data) < _LIST + 4:
        return data
    fixed = bytearray(data)
    fixed[:5] = container.MAGIC + bytes([container.VERSION])
    if name:
        fixed[5], fixed[8:16] = container.FAMILY_IDS[model(name).bundle.family], model(name).bundle.model_id
    count = struct.unpack_from("<I", fixed, 30)[0]
    if count * 5 + _LIST + 4 > len(fixed):
        return bytes(fixed)
    place = end = _LIST + 5 * count
    fixed[end : end + 4] = struct.pack("<I", zlib.crc32(fixed[:end]))
    place += 4
    for k in range(count):
        kind, size = struct.unpack_from("<BI", fixed, _LIST + 5 * k)
        if kind in CHECKED and 5 <= size <= len(fixed) - place:
            fixed[place + size - 4 : place + size] = struct.pack("<I", zlib.crc32(fixed[place : place + size - 4]))
        place += size
    return bytes(fixed)


def _with_right_symbols(data: bytes, name: str) -> bytes:
    """The same with the checksum of the symbols that it holds."""
    head, sections = container.parse(data)
    LIMITS.check(head)
    pipeline = model(name).pipeline
    latent = [(kind, bytes(content)) for kind, content in sections if kind in container.LATENT_SECTIONS]
    level = model(name)._level(head, latent)
    symbols = pipeline.decode_symbols(latent, head.height, head.width, level)
    return _with_right_head(data[:26] + struct.pack("<I", symbols.crc()) + data[30:])

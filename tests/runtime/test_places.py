# SPDX-License-Identifier: MIT
"""Maps of qualities: from masks, to bytes and back, and what of strangers' bytes is refused."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.container import SECTION_HYPER, SECTION_QUALITIES
from fewbits.errors import CorruptError
from fewbits.runtime.places import MAX_CLASSES, Places, Roi, pack_places, parse_places

ROWS, COLUMNS = 3, 2
HEIGHT, WIDTH = 64 * ROWS - 63, 64 * COLUMNS


def mask_with(*pixels: tuple[int, int, float]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    for row, column, value in pixels:
        mask[row, column] = value
    return mask


def test_one_white_pixel_is_enough_for_its_block() -> None:
    places = Roi.of(mask_with((63, 64, 1.0)), 3000).at(6000)
    assert places is not None and places.qualities == (6000, 3000)
    assert places.classes.tolist() == [[1, 0], [1, 1], [1, 1]] and places.classes.dtype == np.uint8
    last = Roi.of(mask_with((HEIGHT - 1, 0, 1.0)), 3000).at(6000)  # a block of one row
    assert last is not None and last.classes.tolist() == [[1, 1], [1, 1], [0, 1]]


def test_greys_are_in_between() -> None:
    places = Roi.of(mask_with((0, 0, 1.0), (0, 64, 0.5), (64, 0, 0.26)), 7000).at(8000)
    assert places is not None and places.qualities == (8000, 4000, 3000, 1000)  # sevenths of 70 points
    assert places.classes.tolist() == [[0, 1], [2, 3], [3, 3]]


def test_no_quality_is_below_zero_and_equal_ones_are_one() -> None:
    places = Roi.of(mask_with((0, 0, 1.0), (0, 64, 0.3)), 10_000).at(1000)
    assert places is not None and places.qualities == (1000, 0)
    assert places.classes.tolist() == [[0, 1], [1, 1], [1, 1]]


@pytest.mark.parametrize(("value", "drop", "steps"), [(1.0, 3000, 6000), (0.0, 0, 6000), (0.3, 3000, 0)])
def test_where_all_have_the_same_quality_there_is_no_map(value: float, drop: int, steps: int) -> None:
    assert Roi.of(np.full((HEIGHT, WIDTH), value, np.float32), drop).at(steps) is None


def test_where_nothing_is_white_the_first_quality_is_the_header_s() -> None:
    places = Roi.of(mask_with(), 3000).at(6000)
    assert places is not None and places.qualities == (6000, 3000) and (places.classes == 1).all()


def test_the_bytes_are_pinned() -> None:
    """docs/format.md, "Qualities"."""
    classes = np.array([[1, 0], [1, 1], [1, 1]], np.uint8)
    content = bytes.fromhex("02 7017 b80b") + zlib.compress(bytes([1, 0, 1, 1, 1, 1]), 9)
    assert pack_places(Places((6000, 3000), classes)) == content + struct.pack("<I", zlib.crc32(content))


@given(
    st.lists(st.integers(0, 10_000), min_size=2, max_size=MAX_CLASSES, unique=True), st.integers(1, 300), st.integers(1, 300),
    st.integers(0, 2**32),
)  # fmt: skip
def test_maps_come_back(qualities: list[int], height: int, width: int, seed: int) -> None:
    falling = tuple(sorted(qualities, reverse=True))
    shape = -(-height // 64), -(-width // 64)
    places = Places(falling, np.random.default_rng(seed).integers(0, len(falling), shape).astype(np.uint8))
    found = parse_places([(SECTION_HYPER, b"x"), (SECTION_QUALITIES, pack_places(places))], height, width, falling[0])
    assert found is not None and found.qualities == falling and np.array_equal(found.classes, places.classes)


def test_a_picture_without_the_section_has_no_map() -> None:
    assert parse_places([(SECTION_HYPER, b"x")], HEIGHT, WIDTH, 6000) is None


def section(qualities: list[int], classes: bytes, count: int | None = None, deflated: bytes | None = None) -> bytes:
    head = bytes([len(qualities) if count is None else count]) + b"".join(struct.pack("<H", steps) for steps in qualities)
    content = head + (zlib.compress(classes) if deflated is None else deflated)
    return content + struct.pack("<I", zlib.crc32(content))


GOOD = bytes(ROWS * COLUMNS)
HOSTILE = {
    "no bytes": (b"", "checksum"),
    "a checksum alone": (struct.pack("<I", 0), "checksum"),
    "no qualities": (section([], GOOD), "0 of them in .* there must be 2 to 8"),
    "one quality": (section([6000], GOOD), "1 of them"),
    "nine qualities": (section([6000 - k for k in range(9)], GOOD), "9 of them"),
    "fewer than it says": (section([6000, 3000], b"", count=8, deflated=b""), "8 of them in 5 bytes"),
    "another first quality": (section([6001, 3000], GOOD), r"\(6001, 3000\) hundredths, they must fall from the header's, 6000"),
    "equal qualities": (section([6000, 6000], GOOD), "they must fall"),
    "rising qualities": (section([6000, 10, 65_535], GOOD), "they must fall"),
    "no classes": (section([6000, 3000], b"", deflated=b""), "not the picture's 6 places"),
    "no zlib stream": (section([6000, 3000], b"", deflated=b"\xff" * 20), "cannot be inflated"),
    "too few": (section([6000, 3000], GOOD[1:]), "not the picture's 6 places"),
    "too many": (section([6000, 3000], GOOD + b"\0"), "not the picture's 6 places"),
    "a bomb": (section([6000, 3000], bytes(1 << 24)), "not the picture's 6 places"),
    "cut": (section([6000, 3000], b"", deflated=zlib.compress(GOOD)[:-1]), "not the picture's 6 places"),
    "bytes behind": (section([6000, 3000], b"", deflated=zlib.compress(GOOD) + b"x"), "not the picture's 6 places"),
    "an unknown class": (section([6000, 3000], GOOD[1:] + b"\2"), "a class is 2, it must be below 2"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_map_is_refused(name: str) -> None:
    content, message = HOSTILE[name]
    with pytest.raises(CorruptError, match=message):
        parse_places([(SECTION_QUALITIES, content)], HEIGHT, WIDTH, 6000)


def test_two_maps_are_refused() -> None:
    good = SECTION_QUALITIES, section([6000, 3000], GOOD)
    assert parse_places([good], HEIGHT, WIDTH, 6000) is not None
    with pytest.raises(CorruptError, match="2 qualities sections, there may be 1"):
        parse_places([good, good], HEIGHT, WIDTH, 6000)


def test_every_flipped_byte_is_refused() -> None:
    good = section([6000, 3000], GOOD)
    for place in range(len(good)):
        damaged = good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :]
        with pytest.raises(CorruptError, match="checksum"):
            parse_places([(SECTION_QUALITIES, damaged)], HEIGHT, WIDTH, 6000)

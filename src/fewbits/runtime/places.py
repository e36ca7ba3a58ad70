# SPDX-License-Identifier: MIT
"""Qualities by place: a mask of what is wanted -> a map of qualities, and that map <-> its section (docs/format.md, "Qualities").

A place is a block of 64x64 pixels: a position of the hyper latent of the kind "hyperprior". Pure: bytes and arrays in and out.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from fewbits.container import QUALITY_STEPS, SECTION_QUALITIES, Cut
from fewbits.errors import CorruptError
from fewbits.sealing import inflated, sealed, unsealed

PLACE_PX: Final = 64  # a side; part of the format
MAX_CLASSES: Final = 8  # part of the format
_QUALITY: Final = struct.Struct("<H")


class Places(NamedTuple):
    """qualities: hundredths, 2 to MAX_CLASSES of them, falling; classes: uint8 (rows, columns), which of them a place has."""

    qualities: tuple[int, ...]
    classes: np.ndarray


class Roi(NamedTuple):
    """A region of interest. wanted: float32 (rows, columns) in 0..1 for each place; where it is 0 the quality is lower by
    `drop_steps` hundredths, and in between where it is between."""

    wanted: np.ndarray
    drop_steps: int

    @classmethod
    def of(cls, mask: np.ndarray, drop_steps: int) -> "Roi":
        """mask: (height, width) in pixels, 0..1. A place is wanted as much as the pixel in it that is wanted most."""
        tops, lefts = (np.arange(0, side, PLACE_PX) for side in mask.shape)
        return cls(np.maximum.reduceat(np.maximum.reduceat(mask, tops, axis=0), lefts, axis=1), drop_steps)

    def at(self, quality_steps: int) -> Places | None:
        """The map where that quality, in hundredths, is what fully wanted places get; None where all of them get it.

        Greys are rounded to MAX_CLASSES of them, evenly; no quality is below 0.
        """
        greys = np.rint((1 - self.wanted) * (MAX_CLASSES - 1)).astype(np.int64)  # 0: white
        drops = (greys * self.drop_steps + (MAX_CLASSES - 1) // 2) // (MAX_CLASSES - 1)
        found, classes = np.unique(-np.maximum(quality_steps - drops, 0), return_inverse=True)
        qualities, classes = [-int(steps) for steps in found], classes.reshape(drops.shape)
        if qualities[0] != quality_steps:  # nothing is white; the header has that quality all the same
            qualities, classes = [quality_steps, *qualities], classes + 1
        return Places(tuple(qualities), classes.astype(np.uint8)) if len(qualities) > 1 else None


def pack_places(places: Places) -> bytes:
    """The content of the section."""
    head = bytes([len(places.qualities)]) + b"".join(map(_QUALITY.pack, places.qualities))
    content = head + zlib.compress(places.classes.tobytes(), 9)
    return sealed(content)


def parse_places(sections: Sequence[tuple[int, bytes | Cut]], height: int, width: int, quality_steps: int) -> Places | None:
    """The map that is among the sections of a picture of so many pixels; None where there is none. Raises CorruptError.

    quality_steps: the header's quality, which the first class has.
    """
    found = [content for kind, content in sections if kind == SECTION_QUALITIES]
    if not found:
        return None
    if len(found) > 1:
        raise CorruptError(f"{len(found)} qualities sections, there may be 1")
    section = found[0]
    assert not isinstance(section, Cut), "container.parse refuses such a file"
    content = unsealed(section, "qualities")
    count, start = content[0], 1 + _QUALITY.size * content[0]
    if not 2 <= count <= MAX_CLASSES or len(content) < start:
        raise CorruptError(f"qualities: {count} of them in {len(content)} bytes, there must be 2 to {MAX_CLASSES}")
    qualities = tuple(steps for (steps,) in _QUALITY.iter_unpack(content[1:start]))
    if qualities[0] != quality_steps or any(low >= high for high, low in zip(qualities, qualities[1:], strict=False)):
        raise CorruptError(f"qualities: they are {qualities} hundredths, they must fall from the header's, {quality_steps}")
    assert quality_steps <= QUALITY_STEPS, "container.parse_header refuses others"
    shape = -(-height // PLACE_PX), -(-width // PLACE_PX)
    size = shape[0] * shape[1]
    value, whole = inflated(content[start:], size, "qualities: the classes")
    if len(value) != size or not whole:
        raise CorruptError(f"qualities: the classes are not the picture's {size} places: the file is damaged")
    classes = np.frombuffer(value, np.uint8).reshape(shape)
    if classes.max() >= count:
        raise CorruptError(f"qualities: a class is {classes.max()}, it must be below {count}")
    return Places(qualities, classes)

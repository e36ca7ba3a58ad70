# SPDX-License-Identifier: MIT
"""Bytes <-> header and sections, as docs/format.md says. Pure: no files, no networks, no allocation before the limits."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Final

from fewbits.errors import CorruptError, ImageError, LimitError, NotFewbitsError, TruncatedError, UnsupportedVersionError

MAGIC: Final = b"\x8fFEW"
EXTENSION: Final = ".few"
VERSION: Final = 1
MAX_SIDE: Final = 1 << 20
MAX_PIXELS: Final = 1 << 28  # 268 megapixels
MAX_SECTIONS: Final = 1 << 16
QUALITY_STEPS: Final = 10_000  # a quality of 0-100 is stored in hundredths

# Numbers on the wire: released ones are never reused.
FAMILY_IDS: Final = {
    "few": 1, "slimcae": 2, "klt": 3, "cae-pca": 4, "content-weighted": 5, "resnet-ae": 6, "cae3": 7, "resnet101": 8,
}  # fmt: skip
COLOUR_IDS: Final = {"grey": 0, "rgb": 1}
SECTION_HYPER: Final = 1
SECTION_LATENT: Final = 2
SECTION_IMPORTANCE: Final = 3
SECTION_ALPHA: Final = 4
SECTION_QUALITIES: Final = 5
SECTION_COARSE: Final = 6
SECTION_ICC: Final = 128
SECTION_EXIF: Final = 129
SECTION_XMP: Final = 130
SECTION_NAMES: Final = {
    SECTION_HYPER: "hyper", SECTION_LATENT: "latent", SECTION_IMPORTANCE: "importance", SECTION_ALPHA: "alpha",
    SECTION_QUALITIES: "qualities", SECTION_COARSE: "coarse",
    SECTION_ICC: "icc", SECTION_EXIF: "exif", SECTION_XMP: "xmp",
}  # fmt: skip
LATENT_SECTIONS: Final = (SECTION_HYPER, SECTION_LATENT, SECTION_IMPORTANCE, SECTION_QUALITIES, SECTION_COARSE)
METADATA_SECTIONS: Final = (SECTION_ICC, SECTION_EXIF, SECTION_XMP)
DEPTH_IDS: Final = {8: 0, 16: 1}  # bits a sample of the picture that was coded
_NEEDED: Final = {  # before any strip can be decoded
    SECTION_HYPER: "hyper", SECTION_IMPORTANCE: "importance", SECTION_QUALITIES: "qualities",
}  # fmt: skip
CRITICAL: Final = range(0, 128)  # a decoder must reject unknown sections of these types and skip the others

_LAYOUT: Final = struct.Struct("<4sBBBB8sIIHII")  # docs/format.md, "Header"
_SECTION: Final = struct.Struct("<BI")
_CRC: Final = struct.Struct("<I")
MAX_HEADER_BYTES: Final = _LAYOUT.size + MAX_SECTIONS * _SECTION.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. Sizes in pixels; quality in hundredths, 0..10000; sections as (type, bytes) in order.

    depth: bits a sample of the picture that was coded, 8 or 16.
    """

    family: str
    colour: str
    model_id: bytes
    width: int
    height: int
    quality_steps: int
    symbols_crc: int
    sections: tuple[tuple[int, int], ...]
    depth: int = 8

    @property
    def quality(self) -> float:
        """0.0-100.0."""
        return self.quality_steps / (QUALITY_STEPS // 100)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of the sections of each kind by its name; what this release does not know is "unknown"."""
        sizes: dict[str, int] = {}
        for kind, size in self.sections:
            name = SECTION_NAMES.get(kind, "unknown")
            sizes[name] = sizes.get(name, 0) + size
        return sizes

    @property
    def has_places(self) -> bool:
        """Whether only a part of the picture has the quality, and others have a lower one."""
        return any(kind == SECTION_QUALITIES for kind, _ in self.sections)

    @property
    def header_bytes(self) -> int:
        return _LAYOUT.size + _SECTION.size * len(self.sections) + _CRC.size

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + sum(size for _, size in self.sections)


@dataclass(frozen=True, slots=True)
class Cut:
    """What is there of a section's content in a file that was cut before the section's end."""

    there: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller allows a file to ask for: pixels, width times height; side, each of them. By default what the format does.

    Raises ImageError on what is no number."""

    pixels: int = MAX_PIXELS
    side: int = MAX_SIDE

    def __post_init__(self) -> None:
        for name, value in (("pixels", self.pixels), ("side", self.side)):
            if isinstance(value, bool) or not isinstance(value, Real) or not value >= 0:  # also catches NaN
                raise ImageError(f"limits: {name} is {value!r}, it must be a number that is not negative")

    def check(self, header: Header) -> None:
        """Raises LimitError."""
        _check_sides(header.width, header.height, self)


def _check_sides(width: int, height: int, limits: Limits) -> None:
    for field, side in (("width", width), ("height", height)):
        if side > limits.side:
            raise LimitError(field, side, limits.side)
    if width * height > limits.pixels:
        raise LimitError("width times height", width * height, limits.pixels)


def pack(header: Header, payloads: Sequence[bytes]) -> bytes:
    """A whole file; `header.sections` and `payloads` are in the same order."""
    assert [size for _, size in header.sections] == [len(payload) for payload in payloads]
    head = _LAYOUT.pack(
        MAGIC,
        VERSION,
        FAMILY_IDS[header.family],
        COLOUR_IDS[header.colour],
        DEPTH_IDS[header.depth],
        header.model_id,
        header.width,
        header.height,
        header.quality_steps,
        header.symbols_crc,
        len(header.sections),
    )
    head += b"".join(_SECTION.pack(*section) for section in header.sections)
    return b"".join([head, _CRC.pack(zlib.crc32(head)), *payloads])


def parse_header(data: bytes) -> Header:
    """The header at the start of `data`. Raises a FormatError that names the field."""
    if not data:
        raise NotFewbitsError("not a fewbits file: it is empty")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise NotFewbitsError(f"not a fewbits file: it starts with {data[:4].hex(' ')}, not {MAGIC.hex(' ')}")
    if len(data) > 4 and data[4] != VERSION:
        raise UnsupportedVersionError(f"format version is {data[4]}, this release reads {VERSION}: update fewbits")
    if len(data) < _LAYOUT.size:
        raise TruncatedError("header", need=_LAYOUT.size, got=len(data))
    _, _, family, colour, depth, model_id, width, height, quality, symbols_crc, n_sections = _LAYOUT.unpack_from(data)
    if n_sections > MAX_SECTIONS:
        raise LimitError("section count", n_sections, MAX_SECTIONS)
    end = _LAYOUT.size + n_sections * _SECTION.size
    if len(data) < end + _CRC.size:
        raise TruncatedError("section list", need=end + _CRC.size, got=len(data))
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise CorruptError("the header's checksum does not match: the file is damaged")
    if family not in FAMILY_IDS.values():
        raise UnsupportedVersionError(f"family number is {family}, this release knows {sorted(FAMILY_IDS.values())}")
    if colour not in COLOUR_IDS.values() or depth not in DEPTH_IDS.values():
        raise UnsupportedVersionError(f"colour is {colour} and depth {depth}, this release knows 0..1 of both")
    for field, side in (("width", width), ("height", height)):
        if not side:
            raise CorruptError(f"{field} is 0, it must be at least 1")
    _check_sides(width, height, Limits())
    if quality > QUALITY_STEPS:
        raise CorruptError(f"quality is {quality} hundredths, at most {QUALITY_STEPS} is allowed")
    sections = tuple(_SECTION.iter_unpack(data[_LAYOUT.size : end]))
    unknown = [kind for kind, _ in sections if kind in CRITICAL and kind not in (*LATENT_SECTIONS, SECTION_ALPHA)]
    if unknown:
        raise UnsupportedVersionError(f"section type is {unknown[0]}, which this release does not know: update fewbits")
    names = {number: name for name, number in FAMILY_IDS.items()}
    colours = {number: name for name, number in COLOUR_IDS.items()}
    depths = {number: bits for bits, number in DEPTH_IDS.items()}
    return Header(names[family], colours[colour], model_id, width, height, quality, symbols_crc, sections, depths[depth])


def parse(data: bytes, *, allow_truncated: bool = False) -> tuple[Header, list[tuple[int, memoryview | Cut]]]:
    """A whole file: its header and its sections as (type, bytes), in order. Raises a FormatError that names the field.

    allow_truncated: the file may have been cut after the sections that all strips need; those that are not there as a whole are
    Cut.
    """
    header = parse_header(data)
    if len(data) < header.file_bytes and not allow_truncated:
        raise TruncatedError("sections", need=header.file_bytes - header.header_bytes, got=len(data) - header.header_bytes)
    if len(data) > header.file_bytes:
        raise CorruptError(f"{len(data) - header.file_bytes} bytes follow the last section, none are allowed")
    view, place = memoryview(data), header.header_bytes
    sections: list[tuple[int, memoryview | Cut]] = []
    for kind, size in header.sections:
        there = place + size <= len(data)
        if not there and kind in _NEEDED:
            raise TruncatedError(f"{_NEEDED[kind]} section", need=size, got=max(0, len(data) - place))
        part = view[place : place + size]
        sections.append((kind, part if there else Cut(bytes(part))))
        place += size
    return header, sections

# SPDX-License-Identifier: MIT
"""The wire format: one table of headers and bytes for both directions, and every way that bytes can be wrong."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits import container
from fewbits.container import Cut, Header, Limits, pack, parse, parse_header
from fewbits.errors import CorruptError, FormatError, LimitError, NotFewbitsError, TruncatedError, UnsupportedVersionError

# docs/format.md spelt out: a header, its sections' bytes, and the file in hexadecimal.
TABLE = [
    (
        Header("few", "rgb", bytes(range(1, 9)), 768, 512, 6000, 0xDEADBEEF, ((1, 3), (2, 2))),
        [b"abc", b"de"],
        "8f464557 01 01 01 00 0102030405060708 00030000 00020000 7017 efbeadde 02000000 "
        "01 03000000 02 02000000 6e40c80d 616263 6465",
    ),
    (
        Header("few", "grey", b"\xff" * 8, 1 << 20, 256, 0, 0, ()),
        [],
        "8f464557 01 01 00 00 ffffffffffffffff 00001000 00010000 0000 00000000 00000000 44a64a8f",
    ),
    (
        Header("few", "rgb", bytes(8), 1, 1, 10_000, 0xFFFFFFFF, ((1, 0), (128, 1), (255, 0))),
        [b"", b"x", b""],
        "8f464557 01 01 01 00 0000000000000000 01000000 01000000 1027 ffffffff 03000000 "
        "01 00000000 80 01000000 ff 00000000 d1444038 78",
    ),
]


def forged(
    *,
    magic: bytes = b"\x8fFEW",
    version: int = 1,
    family: int = 1,
    colour: int = 1,
    depth: int = 0,
    width: int = 32,
    height: int = 48,
    quality: int = 5000,
    n_sections: int | None = None,
    sections: tuple[tuple[int, int], ...] = ((1, 0), (2, 0)),
) -> bytes:
    """A header with any numbers in it and a right checksum, made without the code under test."""
    count = len(sections) if n_sections is None else n_sections
    head = magic + struct.pack("<BBBB8sIIHII", version, family, colour, depth, b"model id", width, height, quality, 0, count)
    head += b"".join(struct.pack("<BI", *section) for section in sections)
    return head + struct.pack("<I", zlib.crc32(head))


def test_released_numbers_are_never_reused() -> None:
    assert container.FAMILY_IDS == {
        "few": 1,
        "slimcae": 2,
        "klt": 3,
        "cae-pca": 4,
        "content-weighted": 5,
        "resnet-ae": 6,
        "cae3": 7,
        "resnet101": 8,
    }
    assert container.COLOUR_IDS == {"grey": 0, "rgb": 1}
    assert (container.SECTION_HYPER, container.SECTION_LATENT, container.SECTION_IMPORTANCE) == (1, 2, 3)
    assert (container.MAGIC, container.VERSION) == (b"\x8fFEW", 1)
    assert (container.MAX_SIDE, container.MAX_PIXELS, container.MAX_SECTIONS) == (2**20, 2**28, 2**16)


@pytest.mark.parametrize(("header", "payloads", "text"), TABLE, ids=["usual", "no sections", "skippable"])
def test_the_table_packs_and_parses(header: Header, payloads: list[bytes], text: str) -> None:
    data = bytes.fromhex(text)
    assert pack(header, payloads) == data
    parsed, sections = parse(data)
    assert parsed == header
    assert [bytes(payload) for _, payload in sections] == payloads
    assert [kind for kind, _ in sections] == [kind for kind, _ in header.sections]
    assert (header.file_bytes, header.header_bytes) == (len(data), len(data) - sum(map(len, payloads)))


@pytest.mark.parametrize(("header", "payloads", "text"), TABLE, ids=["usual", "no sections", "skippable"])
def test_every_prefix_and_every_extension_is_refused(header: Header, payloads: list[bytes], text: str) -> None:
    data = bytes.fromhex(text)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse(data[:length])
        if length < header.header_bytes:
            with pytest.raises(FormatError):
                parse_header(data[:length])
        else:
            assert parse_header(data[:length]) == header
    with pytest.raises(CorruptError, match="1 bytes follow the last section"):
        parse(data + b"\0")


@pytest.mark.parametrize(("header", "payloads", "text"), TABLE, ids=["usual", "no sections", "skippable"])
def test_every_flipped_bit_of_a_header_is_refused(header: Header, payloads: list[bytes], text: str) -> None:
    data = bytes.fromhex(text)
    for place in range(8 * header.header_bytes):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(FormatError):
            parse(bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\0", b"\x8fFEX", b"FEW"])
def test_other_files_are_not_fewbits_files(data: bytes) -> None:
    with pytest.raises(NotFewbitsError, match="not a fewbits file"):
        parse_header(data)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_part_of_the_magic_is_a_truncated_file(length: int) -> None:
    with pytest.raises(TruncatedError, match=f"34 bytes are needed for the header, {length} are left"):
        parse_header(b"\x8fFEW"[:length])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (forged(width=0), CorruptError, "width is 0"),
        (forged(height=0), CorruptError, "height is 0"),
        (forged(width=2**20 + 1), LimitError, "width is 1048577, at most 1048576"),
        (forged(height=2**32 - 1), LimitError, "height is 4294967295, at most 1048576"),
        (forged(width=2**20, height=257), LimitError, "width times height is 269484032, at most 268435456"),
        (forged(quality=10_001), CorruptError, "quality is 10001"),
        (forged(version=2), UnsupportedVersionError, "format version is 2"),
        (forged(version=0), UnsupportedVersionError, "format version is 0"),
        (forged(family=0), UnsupportedVersionError, "family number is 0"),
        (forged(family=255), UnsupportedVersionError, "family number is 255"),
        (forged(colour=2), UnsupportedVersionError, "colour is 2"),
        (forged(depth=2), UnsupportedVersionError, "depth 2"),
        (forged(sections=((0, 0),)), UnsupportedVersionError, "section type is 0"),
        (forged(sections=((1, 0), (7, 0))), UnsupportedVersionError, "section type is 7"),
        (forged(sections=((127, 0),)), UnsupportedVersionError, "section type is 127"),
        (forged(n_sections=2**16 + 1), LimitError, "section count is 65537, at most 65536"),
        (forged(n_sections=2**32 - 1), LimitError, "section count is 4294967295"),
        (forged(n_sections=2**16), TruncatedError, "327718 bytes are needed for the section list"),
        (forged(sections=((1, 2**32 - 1),)), TruncatedError, "4294967295 bytes are needed for the sections, 0 are left"),
        (forged(sections=((1, 2**32 - 1), (2, 2**32 - 1))), TruncatedError, "8589934590 bytes are needed for the sections"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attacks(data: bytes, error: type[FormatError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse(data)
    assert "\n" not in str(caught.value)


def test_the_limits_themselves_are_allowed() -> None:
    assert parse_header(forged(width=2**20, height=2**8)).width == 2**20
    assert parse_header(forged(width=2**8, height=2**20)).height == 2**20
    assert parse_header(forged(quality=10_000)).quality == 100.0
    assert len(parse_header(forged(sections=((2, 0),) * 2**16)).sections) == 2**16


def test_a_caller_may_allow_less() -> None:
    header = parse_header(forged(width=300, height=200))
    Limits(pixels=60_000, side=300).check(header)
    with pytest.raises(LimitError, match="width times height is 60000, at most 59999"):
        Limits(pixels=59_999).check(header)
    with pytest.raises(LimitError, match="width is 300, at most 299"):
        Limits(side=299).check(header)
    Limits().check(parse_header(forged(width=2**20, height=2**8)))  # all that the format has


def test_unknown_sections_that_may_be_skipped_are_parsed() -> None:
    for kind in range(128, 256):
        assert parse_header(forged(sections=((1, 0), (kind, 7)))).sections == ((1, 0), (kind, 7))


def test_of_a_file_that_was_cut_the_parts_that_are_there_are_handed_out() -> None:
    payloads = [b"hyper", b"coarse", b"latent"]
    header = Header("few", "rgb", bytes(8), 9, 600, 5000, 1, ((1, 5), (6, 6), (2, 6)))
    data = pack(header, payloads)
    for there in range(5, 17):
        _, sections = parse(data[: header.header_bytes + there], allow_truncated=True)
        for (kind, part), content, start in zip(sections, payloads, (0, 5, 11), strict=True):
            expected = content[: max(0, there - start)]
            if len(expected) < len(content):
                assert kind in (6, 2) and part == Cut(expected)
            else:
                assert bytes(part) == content  # type: ignore[arg-type]
    for there in range(5):
        with pytest.raises(TruncatedError, match=f"5 bytes are needed for the hyper section, {there} are left"):
            parse(data[: header.header_bytes + there], allow_truncated=True)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_is_parsed(kind: type) -> None:
    header, payloads, text = TABLE[0]
    parsed, sections = parse(kind(bytes.fromhex(text)))
    assert parsed == header and [bytes(payload) for _, payload in sections] == payloads


headers = st.builds(
    lambda colour, model_id, width, height, quality, crc, payloads: (
        Header("few", colour, model_id, width, height, quality, crc, tuple((kind, len(data)) for kind, data in payloads)),
        [data for _, data in payloads],
    ),
    st.sampled_from(["grey", "rgb"]),
    st.binary(min_size=8, max_size=8),
    st.integers(1, 2**14),
    st.integers(1, 2**14),
    st.integers(0, 10_000),
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.sampled_from([1, 2, *range(128, 256)]), st.binary(max_size=20)), max_size=5),
)


@given(headers)
def test_parse_undoes_pack(case: tuple[Header, list[bytes]]) -> None:
    header, payloads = case
    parsed, sections = parse(pack(header, payloads))
    assert parsed == header and [bytes(payload) for _, payload in sections] == payloads


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda tail: b"\x8fFEW\1\1\1\0" + tail)))
def test_any_bytes_give_a_header_or_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):  # a random checksum is never right
        parse(data)

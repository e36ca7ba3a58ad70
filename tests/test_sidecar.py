# SPDX-License-Identifier: MIT
"""Alpha and metadata: exact, small, and every damaged byte is an error of one line."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from fewbits import codec, container
from fewbits.codec import Model
from fewbits.container import SECTION_ALPHA, SECTION_EXIF, SECTION_HYPER, SECTION_ICC, SECTION_LATENT, SECTION_XMP, Header
from fewbits.errors import CorruptError, FormatError, ImageError, LimitError
from fewbits.picture import Metadata
from fewbits.sidecar import MAX_METADATA, pack_sidecar, parse_alpha, parse_metadata


def noise(dtype: type, height: int = 9, width: int = 13) -> np.ndarray:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (height, width)).astype(dtype)


def checked(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "little")


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_comes_back_exactly(dtype: type) -> None:
    alpha = noise(dtype)
    [(kind, section)] = pack_sidecar(alpha, Metadata())
    found = parse_alpha([(kind, section)], 9, 13, 8 * alpha.dtype.itemsize)
    assert kind == SECTION_ALPHA and found is not None and found.dtype == dtype and np.array_equal(found, alpha)


@pytest.mark.parametrize(("dtype", "n_bytes"), [(np.uint8, 6), (np.uint16, 7)])
def test_a_constant_alpha_takes_a_few_bytes_at_any_size(dtype: type, n_bytes: int) -> None:
    sections = pack_sidecar(np.full((300, 200), 129, dtype), Metadata())
    assert len(sections[0][1]) == n_bytes
    found = parse_alpha(sections, 300, 200, 8 * np.dtype(dtype).itemsize)
    assert found is not None and found.shape == (300, 200) and (found == 129).all()


def test_alpha_is_given_at_the_depth_that_is_asked_for() -> None:
    small, deep = noise(np.uint8), noise(np.uint16)
    up = parse_alpha(pack_sidecar(small, Metadata()), 9, 13, 16)
    down = parse_alpha(pack_sidecar(deep, Metadata()), 9, 13, 8)
    assert up is not None and down is not None
    assert np.array_equal(up, small.astype(np.uint16) * 257) and np.array_equal(down, np.rint(deep / 257).astype(np.uint8))


def test_nothing_beside_the_pixels_takes_no_byte() -> None:
    assert pack_sidecar(None, Metadata()) == []
    assert parse_alpha([], 2, 3, 8) is None and parse_metadata([]) == Metadata()


def test_metadata_come_back_exactly_and_are_deflated_where_that_helps() -> None:
    metadata = Metadata(b"a profile" * 50, noise(np.uint8).tobytes(), b"<xmp/>")
    sections = pack_sidecar(None, metadata)
    assert [kind for kind, _ in sections] == [SECTION_ICC, SECTION_EXIF, SECTION_XMP]
    assert [len(section) for _, section in sections][1:] == [9 * 13 + 5, 6 + 5] and len(sections[0][1]) < 100
    assert parse_metadata(sections) == metadata


def test_huge_metadata_are_refused_by_name() -> None:
    with pytest.raises(ImageError, match=f"xmp metadata have {MAX_METADATA + 1} bytes"):
        pack_sidecar(None, Metadata(xmp=bytes(MAX_METADATA + 1)))


def test_a_deflated_bomb_is_refused() -> None:
    bomb = checked(b"\1" + zlib.compress(bytes(MAX_METADATA + 1)))
    with pytest.raises(LimitError, match="icc metadata"):
        parse_metadata([(SECTION_ICC, bomb)])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (b"", "checksum"),
        (b"\0\0\0\0\0", "checksum"),
        (checked(b"\7whatever"), "method 7"),
        (checked(b"\0abc"), "method 0 in 3 bytes"),
        (checked(b"\0"), "method 0 in 0 bytes"),
        (checked(b"\1no PNG"), "^alpha: its PNG cannot be read: not a PNG file$"),
        (checked(b"\1" + png(Image.new("L", (4, 3)))), "4x3, the picture 3x2"),
        (checked(b"\1" + png(Image.new("RGB", (3, 2)))), "mode RGB"),
        (checked(b"\1" + png(Image.new("L", (3, 2)))[:-30]), "cannot be read"),
    ],
)
def test_damaged_alpha_says_what_is_wrong(section: bytes, message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        parse_alpha([(SECTION_ALPHA, section)], 2, 3, 8)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (b"1234", "checksum"),
        (checked(b"\2abc"), "method 2"),
        (checked(b"\1abc"), "cannot be inflated"),
        (checked(b"\1" + zlib.compress(b"abc")[:-2]), "end early"),
        (checked(b"\1" + zlib.compress(b"abc") + b"d"), "go on"),
    ],
)
def test_damaged_metadata_say_what_is_wrong(section: bytes, message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        parse_metadata([(SECTION_EXIF, section)])


def test_a_section_may_come_once() -> None:
    section = checked(b"\0a")
    with pytest.raises(CorruptError, match="2 sections of exif"):
        parse_metadata([(SECTION_EXIF, section)] * 2)
    with pytest.raises(CorruptError, match="2 sections of alpha"):
        parse_alpha([(SECTION_ALPHA, section)] * 2, 2, 3, 8)


def test_any_changed_byte_is_noticed() -> None:
    (_, alpha), (_, icc) = pack_sidecar(noise(np.uint8, 5, 6), Metadata(icc=b"a profile"))
    for place in range(len(alpha)):
        with pytest.raises(FormatError):
            parse_alpha([(SECTION_ALPHA, alpha[:place] + bytes([alpha[place] ^ 64]) + alpha[place + 1 :])], 5, 6, 8)
    for place in range(len(icc)):
        with pytest.raises(FormatError):
            parse_metadata([(SECTION_ICC, icc[:place] + bytes([icc[place] ^ 64]) + icc[place + 1 :])])


def test_a_file_without_its_symbols_takes_no_memory_for_alpha(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant is a few bytes whatever the size, so it comes last."""
    sections = [(SECTION_ALPHA, checked(bytes([0, 0x34, 0x12]))), (SECTION_HYPER, b""), *[(SECTION_LATENT, b"")] * 32]
    sizes = tuple((kind, len(content)) for kind, content in sections)
    header = Header("few", "rgb", model.bundle.model_id, 16384, 16384, 6000, 0, sizes, 8)
    data = container.pack(header, [content for _, content in sections])
    monkeypatch.setattr(codec, "parse_alpha", lambda *_: pytest.fail("it was read first"))
    for read in (model.decode, model.verify):
        with pytest.raises(CorruptError, match="its symbols take"):
            read(data)

# SPDX-License-Identifier: MIT
"""What a photo says beside its pixels is kept to the byte when it is turned, but for the orientation, which is done with."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from fewbits.image import info_of, to_picture
from fewbits.orientation import of_turned
from fewbits.picture import Metadata

ORIENTATION, MAKE, NOTE = 0x0112, 0x010F, 0x927C
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Make="few" %s/></rdf:RDF></x:xmpmeta>'
)


def exif(order: str, orientation: bytes, kind: int = 3, make: tuple[int, int] = (2, 4)) -> bytes:
    """A folder with a make, of this type and count, an orientation and a note of the maker's, and bytes nothing points to."""
    entries = [
        (MAKE, *make, b"few\0"),
        (ORIENTATION, kind, 1, orientation.ljust(4, b"\0")),
        (NOTE, 7, 6, struct.pack(f"{order}I", 50)),
    ]
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return start + body + struct.pack(f"{order}I", 0) + b"notes!" + b"nothing points here"


def photo(info: bytes, xmp: bytes = b"") -> Image.Image:
    """As a JPEG file holds it."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 12)).save(buffer, "JPEG", exif=b"Exif\0\0" + info, xmp=xmp)
    return Image.open(buffer)


@pytest.mark.parametrize("order", "<>")
def test_only_the_orientation_changes(order: str) -> None:
    before = exif(order, struct.pack(f"{order}H", 6))
    picture = to_picture(photo(before))
    assert picture.pixels.shape == (12, 4, 3)
    assert picture.metadata.exif == exif(order, struct.pack(f"{order}H", 1)) != before


def test_data_that_pillow_cannot_write_again_are_kept() -> None:
    """A make that is a float, which Pillow reads as one and fails to write as text."""
    before = exif("<", struct.pack("<H", 8), make=(11, 1))
    image = photo(before)
    with pytest.raises(AttributeError):
        ImageOps.exif_transpose(image)
    assert to_picture(image).metadata.exif == exif("<", struct.pack("<H", 1), make=(11, 1))
    assert image.size == (12, 4) and image.info["exif"] == b"Exif\0\0" + before  # the caller's own


def test_an_orientation_of_an_unusual_type_becomes_a_usual_one() -> None:
    found = to_picture(photo(exif("<", struct.pack("<I", 3), kind=4)))
    assert found.metadata.exif == exif("<", struct.pack("<H", 1))


@pytest.mark.parametrize("said", [b'tiff:Orientation="6"', b'tiff:Orientation="6 "', b""])
def test_xmp_asks_for_no_turn_again(said: bytes) -> None:
    image = photo(exif("<", struct.pack("<H", 6)), XMP % said)
    assert to_picture(image).metadata.xmp == XMP % b""
    again = Image.new("L", (3, 2))
    again.info.update(info_of(to_picture(image).metadata))
    assert again.getexif()[ORIENTATION] == 1


@pytest.mark.parametrize("said", [b'tiff:Orientation="8"', b'tiff:Orientation="8 "', b"<tiff:Orientation>8\n</tiff:Orientation>"])
def test_an_orientation_in_xmp_alone_turns_once(said: bytes) -> None:
    image = Image.new("RGB", (3, 2))
    image.info["xmp"] = XMP % said
    picture = to_picture(image)
    assert picture.pixels.shape == (3, 2, 3) and picture.metadata.xmp == XMP % b""
    again = Image.new("RGB", (2, 3))
    again.info.update(info_of(picture.metadata))
    assert to_picture(again).pixels.shape == (3, 2, 3)


def test_an_upright_picture_keeps_all_as_it_is() -> None:
    metadata = Metadata(exif=exif("<", struct.pack("<H", 6)), xmp=XMP % b'tiff:Orientation="6"')
    assert of_turned(metadata, 1) is metadata


@pytest.mark.parametrize("length", [4, 8, 9, 20, 30])
def test_data_that_end_early_are_no_obstacle(length: int) -> None:
    cut = exif("<", struct.pack("<H", 6))[:length]
    found = of_turned(Metadata(exif=cut), 6).exif
    assert len(found) == length and found[:22] == cut[:22]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_an_orientation_that_is_no_number_turns_nothing(value: float) -> None:
    before = exif("<", struct.pack("<f", value), kind=11)
    picture = to_picture(photo(before))
    assert picture.pixels.shape == (4, 12, 3) and picture.metadata.exif == before


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    before = exif("<", struct.pack("<H", orientation))
    picture = to_picture(photo(before))
    assert picture.pixels.shape == (4, 12, 3) and picture.metadata.exif == before

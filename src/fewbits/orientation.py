# SPDX-License-Identifier: MIT
"""EXIF's orientation: which one an image has, pictures turned as it asks, and metadata that do not ask for it again."""

import dataclasses
import re
import struct
from typing import Final

import numpy as np
from PIL import ExifTags, Image

from fewbits.picture import Metadata

EXIF_ERRORS: Final = (
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)  # what Pillow raises on EXIF data that it cannot take
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TAG_BYTES, _SHORT = 12, 3  # of an entry of a TIFF folder; its type of 16 bits (TIFF 6.0, section 2)
# All that Pillow takes for an orientation, whatever follows the digit: what was left would turn the picture again.
_XMP: Final = re.compile(rb'tiff:Orientation="[0-9][^"]*"|<tiff:Orientation>[0-9][^<]*</tiff:Orientation>')


def orientation_of(image: Image.Image) -> int:
    """By its EXIF or XMP, 1..8; 1, upright, where that cannot be read: a photo's other bytes are worth keeping."""
    try:
        found = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except EXIF_ERRORS:
        return 1
    return found if found in _TURNS else 1


def turned_image(image: Image.Image, orientation: int) -> Image.Image:
    """As an orientation asks for it."""
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def turned_array(array: np.ndarray, orientation: int) -> np.ndarray:
    """(h, w, ...), as an orientation asks for it."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    rows = slice(None, None, -1) if orientation in (3, 4, 7, 8) else slice(None)
    columns = slice(None, None, -1) if orientation in (2, 3, 6, 7) else slice(None)
    return np.ascontiguousarray(array[rows, columns])


def of_turned(metadata: Metadata, orientation: int) -> Metadata:
    """Metadata of a picture that was turned: EXIF's orientation is 1, XMP's is gone. All else is as it was, to the byte: makers
    of cameras have notes there that point to places."""
    if orientation == 1:
        return metadata
    return dataclasses.replace(metadata, exif=_upright_exif(metadata.exif), xmp=_XMP.sub(b"", metadata.xmp))


def _upright_exif(exif: bytes) -> bytes:
    """exif: TIFF-structured. What is said beyond its end is not looked at."""
    data, order = bytearray(exif), "<" if exif.startswith(b"II") else ">"
    try:
        folder = struct.unpack_from(f"{order}4xI", data)[0]
        for k in range(struct.unpack_from(f"{order}H", data, folder)[0]):
            place = folder + 2 + k * _TAG_BYTES
            if struct.unpack_from(f"{order}H", data, place)[0] == ExifTags.Base.Orientation:
                struct.pack_into(f"{order}HHIHH", data, place, ExifTags.Base.Orientation, _SHORT, 1, 1, 0)
    except struct.error:
        pass
    return bytes(data)
